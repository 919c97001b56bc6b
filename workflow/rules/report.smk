# One page of all that is there. What is asked for beside it is made first.
rule report:
    input:
        [path for name in ASKED for path in drawn(name)] if TARGETS else [],
    log:
        f"{LOGS}/report.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        scale=SCALE,
    shell:
        f"{EXPERIMENTS} report {{params.scale}} 2> >(tee {{log}} >&2)"
