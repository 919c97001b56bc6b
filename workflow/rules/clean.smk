# `clean` keeps trained runs: they are hours of work. `purge` drops them too.
rule clean:
    log:
        f"{LOGS}/clean.log",
    params:
        folders=f"{FIGURES} {RESULTS}/groups {LOGS}",
        tables=" ".join(f"{RESULTS}/{name}" for name in PRODUCTS),
    conda:
        "../../environment.yml"
    shell:
        "rm -rf {params.folders} {params.tables}"


rule purge:
    log:
        f"{LOGS}/purge.log",
    params:
        folders=f"{FIGURES} {RESULTS} {LOGS}",
    conda:
        "../../environment.yml"
    shell:
        "rm -rf {params.folders}"
