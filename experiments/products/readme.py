"""What is generated of the documents: results of the reference, in short and in full, and lists."""

from __future__ import annotations

import importlib
import inspect
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from experiments.analysis import alt_text, text_table, verdicts
from experiments.analysis.verdicts import Decision
from experiments.declare import registry
from experiments.declare.product import POST, Figure, Product, Table
from experiments.declare.references import load
from experiments.files import write_atomically
from experiments.products import draw, tidy_tables
from experiments.runs.places import ROOT, figures_dir

README, CONTRIBUTING = ROOT / "README.md", ROOT / "CONTRIBUTING.md"
RESULTS, FINDINGS = ROOT / "docs" / "results.md", ROOT / "docs" / "findings.md"
SHOWN = "fig1"  # in the README itself
VERDICTS: tuple[Decision, ...] = get_args(Decision)


def _there() -> list[Product]:
    """Every product that has a committed reference."""
    return [
        product
        for product in sorted(registry.products().values(), key=place)
        if tidy_tables.claims_file(product, tidy_tables.REFERENCE).exists()
    ]


def _verdicts(product: Product) -> list[verdicts.Verdict]:
    return verdicts.read(tidy_tables.claims_file(product, tidy_tables.REFERENCE))


def count() -> str:
    """For the README: how many figures, tables and claims there are, and what came out."""
    there = _there()
    figures = sum(isinstance(product, Figure) for product in there)
    tables = len(there) - figures
    found = Counter(verdict.verdict for product in there for verdict in _verdicts(product))
    came_out = ", ".join(f"{found[v]} {_spoken(v, found[v])}" for v in VERDICTS if found[v])
    return (
        f"So far there are {figures} figures and {tables} tables of the paper, of its announcement "
        f"post and of our own, with {found.total()} claims: {came_out}.\n"
    )


def _spoken(verdict: Decision, count: int) -> str:
    one = count == 1
    spoken: dict[Decision, str] = {
        "holds": "holds" if one else "hold",
        "fails": "fails" if one else "fail",
    }
    return spoken.get(verdict, f"{'is' if one else 'are'} {verdict}")


def summary() -> str:
    """For the README: the claims of one figure, and how many claims of each product hold."""
    there = _there()
    parts = [_judged(product) for product in there if product.name == SHOWN]
    head = ["figure or table", "what it shows", *VERDICTS]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for product in there:
        counts = Counter(verdict.verdict for verdict in _verdicts(product))
        cells = [product.name, product.title, *(str(counts[v] or "") for v in VERDICTS)]
        rows.append(f"| {' | '.join(cells)} |")
    parts.append("Claims by verdict:\n")
    return "\n".join([*parts, *rows, ""])


def _judged(product: Product) -> str:
    """Setting and verdicts of one product."""
    return "\n\n".join([f"**{product.name}.** {_setting(product)}", *_claims(product)]) + "\n"


def unmet() -> str:
    """For the findings: the claims that do not hold."""
    rows = ["| figure or table | claim | verdict | value | threshold |", "|---|---|---|---|---|"]
    found = [(product.name, v) for product in _there() for v in _verdicts(product)]
    for verdict in VERDICTS[1:]:
        for name, v in found:
            if v.verdict == verdict:
                value = verdicts.measured_text(v)
                cells = [name, v.statement, verdict, value, verdicts.threshold_text(v)]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def measures() -> str:
    """For CONTRIBUTING.md: the functions of `analysis` that a claim can name as its measure."""
    rows = ["| measure | what it gives |", "|---|---|"]
    for path in sorted((ROOT / "experiments" / "analysis").glob("*.py")):
        module = importlib.import_module(f"experiments.analysis.{path.stem}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            first = next(iter(inspect.signature(function).parameters.values()), None)
            returned = inspect.signature(function).return_annotation
            takes_runs = first is not None and first.name in ("runs", "steps")
            own = function.__module__ == module.__name__ and not name.startswith("_")
            if own and takes_runs and returned == "Measured":
                doc = (inspect.getdoc(function) or "").partition("\n")[0]
                rows.append(f"| `{module.__name__}:{name}` | {doc} |")
    return "\n".join(rows) + "\n"


HEAD = """# Results of the reference run

Generated from `results/reference` by `python -m experiments reference NAME`.

In the notes below the claims:

- "(edge)": the best value is the first or the last of the grid; the true optimum may lie outside.
- "inf", an infinite regret: the largest model diverged at the smallest one's best value.
- "nan": there was no such number. Every value diverged, or there was no gain to keep.
- A claim whose value is infinite or missing has a dash for it.
"""
SECTIONS = ("Figures of the paper", "Tables of the paper", "The announcement post", "Ours")


def results() -> str:
    """The page of all figures, tables and verdicts, as Markdown."""
    there = _there()
    contents, parts = [], []
    for number, section in enumerate(SECTIONS):
        own = [product for product in there if place(product)[0] == number]
        if own:
            contents += [f"- {section}", *map(_entry, own)]
            parts += [f"## {section}\n", *(_part(product, "../") for product in own)]
    return "\n".join([HEAD, *contents, "", *parts])


def place(product: Product) -> tuple[int, int, str]:
    """Where it stands in a list: its section, its number in the paper, its name."""
    if product.number is not None:
        return int(isinstance(product, Table)), product.number, product.name
    return (2 if product.work == POST else 3), 0, product.name


def _entry(product: Product) -> str:
    """A line of the contents, with a link."""
    name = f"{product.label[0].upper()}{product.label[1:]}: " if product.number is not None else ""
    return f"  - [{name}{product.title}](#{product.name})"


def _part(product: Product, root: str) -> str:
    """Heading, picture or table, caption, and setting and verdicts if there are any.

    `root` leads from the page to the project's root.
    """
    parts = [f'<a id="{product.name}"></a>', f"### {product.name}: {product.title}"]
    if isinstance(product, Figure):
        picture = figures_dir(tidy_tables.REFERENCE) / f"{product.name}.png"
        seen = alt_text.read(picture) or product.title
        parts.append(f"![{seen}]({root}figures/reference/{product.name}.png)")
    parts.append(f"{product.caption} {product.cited}")
    if isinstance(product, Table):
        runs, _ = tidy_tables.read_runs(product, tidy_tables.REFERENCE)
        parts.append(text_table.markdown(load(product.render, product.name)(runs)).rstrip())
    if product.scaled:
        parts.append(_setting(product))
    return "\n\n".join([*parts, *_claims(product)]) + "\n"


def _setting(product: Product) -> str:
    runs, scale = tidy_tables.read_runs(product, tidy_tables.REFERENCE)
    count = f"{len(runs)} runs; " if product.sweeps else ""
    return f"Here: {count}{draw.setting(product, runs, scale, tidy_tables.REFERENCE)}."


def _claims(product: Product) -> list[str]:
    return [verdicts.markdown(_verdicts(product)).rstrip()] if product.claims else []


GENERATED: dict[Path, dict[str, Callable[[], str]]] = {
    README: {"count": count, "reference": summary},
    CONTRIBUTING: {"measures": measures},
    FINDINGS: {"unmet": unmet},
}
"""Parts of documents, between `<!-- name:begin -->` and `<!-- name:end -->`."""


def updated(page: Path) -> str:
    """A document with its generated parts brought up to date."""
    text = page.read_text(encoding="utf-8")
    for name, make in GENERATED[page].items():
        head, begin, rest = text.partition(f"<!-- {name}:begin -->")
        _, end, tail = rest.partition(f"<!-- {name}:end -->")
        text = f"{head}{begin}\n{make()}{end}{tail}"
    return text


def update() -> None:
    """Rewrite the generated parts of the documents, and the page of results."""
    for page in GENERATED:
        write_atomically(page, updated(page).encode())
    write_atomically(RESULTS, results().encode())
