# `clean` keeps trained runs: they are hours of work. `purge` drops them too.
rule clean:
    log:
        f"{LOGS}/clean.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folders=f"{FIGURES} {RESULTS}/groups {LOGS}",
        tables=" ".join(f"{RESULTS}/{name}" for name in PRODUCTS),
    shell:
        "rm -rf {params.folders} {params.tables}"


rule purge:
    log:
        f"{LOGS}/purge.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folders=f"{FIGURES} {LOGS}",
        results=RESULTS,
    shell:
        # The workflow has its lock open: over NFS such a file cannot be removed with its folder.
        "rm -rf {params.folders}; find {params.results} -mindepth 1 -not -name '.workflow*' -delete"
