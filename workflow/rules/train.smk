# One job a group of runs. Finished runs are in the store, outside the declared output, so that a
# killed job goes on where it was.
rule train:
    output:
        f"{RESULTS}/groups/{{group}}.done",
    log:
        f"{LOGS}/train/{{group}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    params:
        python=PYTHON,
        scale=SCALE,
        product=lambda wildcards: product_of(wildcards.group),
        data=lambda wildcards: data_of(product_of(wildcards.group)),
        jobs=workflow.cores or 1,
    shell:
        "{params.python} -m experiments train {wildcards.group} --product {params.product}"
        " --scale {params.scale} --data {params.data} --jobs {params.jobs} --done {output}"
        " 2> >(tee {log} >&2)"
