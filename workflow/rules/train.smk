# One job per group of runs. Finished runs are in the store, outside the declared output, so that a
# killed job goes on where it was. The last line of a marker is the number of `retrainings`.
rule train:
    output:
        f"{RESULTS}/groups/{{group}}.done",
    log:
        f"{LOGS}/train/{{group}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        runtime=lambda wildcards, attempt: minutes(GROUPS[wildcards.group].runs, SPEED(), attempt),
        mem_mb=lambda wildcards, attempt: megabytes(
            GROUPS[wildcards.group].runs, attempt, stack=STACK
        ),
    params:
        data=lambda wildcards: data_option(NEEDING[wildcards.group]),
        retrainings=lambda wildcards: retrainings(wildcards.group),
    shell:
        f"{EXPERIMENTS} train {{wildcards.group}} {NAMED} --scale {SCALE}"
        f" {{params.data}} --jobs {JOBS} --stack {OPTIONS.stack} {HELPING} --done {{output}}"
        " 2> >(tee {log} >&2)"
        " && echo {params.retrainings} >> {output}"
