"""The generated parts of the documents: results of the reference, in short and in full."""

from __future__ import annotations

from collections import Counter
from typing import get_args

from experiments.analysis import text_table, verdicts
from experiments.analysis.verdicts import Decision
from experiments.declare import registry
from experiments.declare.product import Figure, Product, Table
from experiments.declare.references import load
from experiments.files import write_atomically
from experiments.products import draw, tidy_tables
from experiments.runs.places import ROOT

BEGIN, END = "<!-- reference:begin -->", "<!-- reference:end -->"
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results.md"
SHOWN = "fig1"  # in the README itself
VERDICTS: tuple[Decision, ...] = get_args(Decision)


def _there() -> list[Product]:
    """Every product that has a committed reference."""
    return [
        product
        for product in sorted(registry.products().values(), key=_place)
        if tidy_tables.claims_file(product, tidy_tables.REFERENCE).exists()
    ]


def summary() -> str:
    """For the README: one figure, and how many claims of each product hold."""
    parts = [_part(p, "") for p in _there() if p.name == SHOWN]
    head = ["figure or table", "what it shows", *VERDICTS]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for product in _there():
        found = verdicts.read(tidy_tables.claims_file(product, tidy_tables.REFERENCE))
        counts = Counter(verdict.verdict for verdict in found)
        cells = [product.name, product.title, *(str(counts[v] or "") for v in VERDICTS)]
        rows.append(f"| {' | '.join(cells)} |")
    parts.append("Claims by verdict; everything is on [one page](docs/results.md):\n")
    return "\n".join([*parts, *rows, ""])


def results() -> str:
    """The page of all figures, tables and verdicts, as Markdown."""
    head = (
        "# Results of the reference run\n\n"
        "Generated from `results/reference` by `python -m experiments reference NAME`.\n"
    )
    return "\n".join([head, *(_part(product, "../") for product in _there())])


def _place(product: Product) -> tuple[bool, int, str]:
    """Figures before tables, both by number."""
    digits = "".join(filter(str.isdigit, product.name))
    return isinstance(product, Table), int("0" + digits), product.name


def _part(product: Product, root: str) -> str:
    """Heading, picture or table, caption, and setting and verdicts if there are any.

    `root` leads from the page to the project's root.
    """
    runs, scale = tidy_tables.read_runs(product, tidy_tables.REFERENCE)
    parts = [f"### {product.name}: {product.title}"]
    if isinstance(product, Figure):
        parts.append(f"![{product.name}]({root}figures/reference/{product.name}.png)")
    parts.append(f"{product.caption} {product.cited}")
    if isinstance(product, Table):
        parts.append(text_table.markdown(load(product.render)(runs)).rstrip())
    if product.scaled:
        count = f"{len(runs)} runs; " if product.sweeps else ""
        parts.append(f"Here: {count}{draw.setting(product, runs, scale)}.")
    if product.claims:
        found = verdicts.read(tidy_tables.claims_file(product, tidy_tables.REFERENCE))
        parts.append(verdicts.markdown(found).rstrip())
    return "\n\n".join(parts) + "\n"


def updated(text: str) -> str:
    """`text` with its generated part brought up to date."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{summary()}{END}{tail}"


def update() -> None:
    """Rewrite the README's generated part and the page of results."""
    text = README.read_text(encoding="utf-8")
    write_atomically(README, updated(text).encode())
    write_atomically(RESULTS, results().encode())
