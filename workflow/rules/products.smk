# From runs or a computation to tidy tables, from tables to pictures and verdicts. A command is
# put together when its job starts: what differs between products is in its params.
for name in PRODUCTS:

    rule:
        name:
            f"collect_{name}"
        input:
            [marker(group) for group in NEEDED[name]],
            code=computation(name)[0],
        output:
            tables(name),
        log:
            f"{LOGS}/collect/{name}.log",
        localrule: not registry.product(name).computation and not registry.product(name).follow_up
        conda:
            "../../environment.yml"
        threads: processes(name)
        resources:
            runtime=following_minutes(name),
            mem_mb=following_megabytes(name),
        params:
            name=name,
            data=data_option(name),
            settings=computation(name)[1],
        shell:
            f"{EXPERIMENTS} collect {{params.name}} --scale {SCALE} {{params.data}}"
            f" --jobs {{threads}} --stack {OPTIONS.stack}"
            " 2> >(tee {log} >&2)"

    rule:
        name:
            f"draw_{name}"
        input:
            table=multiext(f"{RESULTS}/{name}/", "runs.parquet", "scale.json"),
            code=drawing(name),
        output:
            reported(name),
        log:
            f"{LOGS}/draw/{name}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            name=name,
            data=data_option(name),
            redrawings=redrawings(name),
            caption=registry.product(name).caption,
        shell:
            f"{EXPERIMENTS} draw {{params.name}} --scale {SCALE} --mend {{params.data}}"
            " 2>&1 | tee {log} >&2"
            f" && echo {{params.redrawings}} > {RESULTS}/{{params.name}}/redrawings"

    rule:
        name:
            name
        input:
            drawn(name),
