# From runs to tidy tables, from tables to pictures and verdicts.
rule collect:
    input:
        lambda wildcards: [marker(group) for group in NEEDED[wildcards.product]],
    output:
        multiext(
            f"{RESULTS}/{{product}}/",
            "runs.parquet",
            "curves.parquet",
            "provenance.parquet",
            "scale.json",
        ),
    log:
        f"{LOGS}/collect/{{product}}.log",
    conda:
        "../../environment.yml"
    params:
        data=lambda wildcards: data_of(wildcards.product),
    shell:
        f"{EXPERIMENTS} collect {{wildcards.product}} --scale {SCALE} --data {{params.data}}"
        " 2> >(tee {log} >&2)"


for name in PRODUCTS:

    rule:
        name:
            f"draw_{name}"
        input:
            table=multiext(f"{RESULTS}/{name}/", "runs.parquet", "scale.json"),
            code=drawing_code(name),
        output:
            drawn(name),
        log:
            f"{LOGS}/draw/{name}.log",
        conda:
            "../../environment.yml"
        params:
            name=name,
        shell:
            f"{EXPERIMENTS} draw {{params.name}} --scale {SCALE} 2>&1 | tee {{log}} >&2"

    rule:
        name:
            name
        input:
            drawn(name),
