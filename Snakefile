"""Targets: fig1, ...; figures, tables, all; report; clean. Scale: --config scale=smoke|small|gpu|paper."""

from snakemake.utils import min_version

min_version("9.0")


include: "workflow/rules/common.smk"


rule all:
    input:
        rules_outputs("all"),


rule figures:
    input:
        rules_outputs("figures"),


rule tables:
    input:
        rules_outputs("tables"),


include: "workflow/rules/train.smk"
include: "workflow/rules/products.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/clean.smk"


MADE = {path for name in PRODUCTS for path in (*drawn(name), *tables(name))}
try:
    check_markers(map(Path, map(marker, GROUPS)))
    check_targets(TARGETS, {rule.name for rule in workflow.rules} | MADE | {*map(marker, GROUPS)})
except UserError as error:
    stop(error)
