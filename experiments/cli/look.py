"""Commands that show something: what there is, how far it is, what came out."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from experiments.cli.options import Data, Jobs, Scale, console
from experiments.declare import registry, scales
from experiments.declare.config import RunConfig
from experiments.declare.data_sources import resolve_all
from experiments.declare.family import Exhibit, Family
from experiments.declare.product import Product
from experiments.declare.scales import check_scale
from experiments.errors import UserError
from experiments.messages import duration, note
from experiments.runs.places import results_dir
from experiments.runs.planning import CORES, known, speed_file, timed
from experiments.runs.planning import plan as planned
from experiments.runs.store import Store
from experiments.runs.training import missing

app = typer.Typer()


@app.command("list", epilog="Example: `python -m experiments list --scale paper`")
def list_(scale: Scale = "small") -> None:
    """List families, figures and tables."""
    checked = check_scale(scale)
    table = RichTable("target", "family", "runs", "title", box=None, pad_edge=False)
    for product in registry.products().values():
        runs = str(len(_runs(product, checked))) if product.sweeps else "none"
        table.add_row(product.name, product.exhibit, runs, product.title)
    console.print(table)
    console.print(
        f"\nRuns at the scale {scale}. Train, compute and draw one with `snakemake {{target}}`; "
        "details with `python -m experiments show {target or family}`."
    )


@app.command(
    epilog="Examples: `python -m experiments show fig1 --scale paper`; "
    "`python -m experiments show transformer_wikitext2`"
)
def show(
    name: Annotated[str, typer.Argument(help="A figure, a table or a family.")],
    scale: Scale = "small",
) -> None:
    """Show what a figure trains or computes and claims, or which keys a family has."""
    if name in registry.exhibits():
        _show_exhibit(registry.exhibit(name))
    else:
        _show_product(registry.product(name), check_scale(scale))


def _show_exhibit(exhibit: Exhibit) -> None:
    console.print(f"{exhibit.title} ({exhibit.name})\n")
    if not isinstance(exhibit, Family):
        for product in exhibit.products:
            console.print(f"{product.name}: {product.title}", soft_wrap=True)
        console.print("\nIt trains nothing, so it has no keys.")
        return
    table = RichTable("key", "type", "in `run`", "meaning", box=None, pad_edge=False)
    for key, field in exhibit.config.model_fields.items():
        kind = str(field.annotation).replace("typing.", "").replace("<class '", "").rstrip("'>")
        value = exhibit.example.get(key, None if field.is_required() else field.default)
        table.add_row(key, kind, "" if value is None else str(value), field.description or "")
    console.print(table)


def _show_product(product: Product, scale: scales.Scale) -> None:
    console.print(f"{product.name}: {product.title}\n{product.cited}\n\n{product.caption}\n")
    if product.sweeps:
        _show_sweeps(product, scale)
    elif product.computation:
        settings = RichTable("setting", "value", box=None, pad_edge=False)
        for key, value in product.computation.at(scale).items():
            settings.add_row(key, str(value))
        console.print(settings)
        console.print(f"\ncomputed without training by {product.computation.function}\n")
    else:
        console.print("drawn by code alone\n")
    if product.claims:
        claims = RichTable("claim", "statement", "threshold", box=None, pad_edge=False)
        for claim in product.claims:
            threshold = f"{claim.relation} {claim.threshold:g} {claim.unit}"
            claims.add_row(claim.id, claim.statement, threshold)
        console.print(claims)


def _runs(product: Product, scale: scales.Scale) -> tuple[RunConfig, ...]:
    """Its runs on any of the data that it can use."""
    return product.runs(scale, next(iter(registry.exhibit(product.exhibit).data_sources), ""))


def _show_sweeps(product: Product, scale: scales.Scale) -> None:
    runs = _runs(product, scale)
    for sweep in product.sweeps:
        axes = RichTable("axis", "values", box=None, pad_edge=False)
        for key, values in sweep.axes(scale).items():
            axes.add_row(key, ", ".join(map(str, values)))
        console.print(axes)
    total = duration(sum(map(known().seconds, runs)))
    console.print(f"\n{len(runs)} runs at the scale {scale}, roughly {total} of one CPU core\n")


@app.command(epilog="Example: `python -m experiments status fig1`")
def status(
    name: Annotated[str | None, typer.Argument(help="One figure or table; all without it.")] = None,
    scale: Scale = "small",
    data: Data = None,
) -> None:
    """Show how many runs are done, diverged, damaged, or made by other code.

    A computation counts as one; what is drawn by code alone as none. `doctor` looks further.
    """
    checked, sources = check_scale(scale), resolve_all(data)
    products = [registry.product(name)] if name else [*registry.products().values()]
    columns = ("target", "data", "done", "of", "diverged", "damaged", "other code", "time left")
    table = RichTable(*columns, box=None, pad_edge=False)
    for product in products:
        try:
            source = sources[product.exhibit]
        except UserError as error:
            if name:
                raise
            note(f"{product.name}: {error}")
            table.add_row(product.name, "missing")
            continue
        counts = _runs_status if product.sweeps else _computation_status
        table.add_row(product.name, source, *counts(product, checked, source))
    console.print(table)


def _runs_status(product: Product, scale: scales.Scale, source: str) -> tuple[str, ...]:
    store, speed = Store(results_dir(scale)), known()
    runs = product.runs(scale, source)
    found = [store.look(one.id) for one in runs]
    for one in found:
        if one.reason:
            note(f"{one.state}: {one.reason}")
    states = Counter(one.state for one in found)
    records = [one.record for one in found if one.record]
    left = sum(map(speed.seconds, missing(runs, store)))
    unread = sum(bool(one.reason) for one in found)
    counts = (len(records), len(runs), sum(r.diverged for r in records), unread)
    return (*map(str, counts), str(states["other code"]), duration(left))


def _computation_status(product: Product, scale: scales.Scale, source: str) -> tuple[str, ...]:
    from experiments.products.computing import state

    if product.schematic:
        return ("0", "0")
    found = state(product, results_dir(scale) / product.name)
    done, damaged, other = (
        found in ("done", "other code"),
        found == "damaged",
        found == "other code",
    )
    return (str(int(done)), "1", "", str(int(damaged)), str(int(other)))


@app.command(epilog="Examples: `python -m experiments claims fig1`; with `--reference`")
def claims(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: Scale = "small",
    reference: Annotated[bool, typer.Option(help="The committed reference run.")] = False,
) -> None:
    """Show the verdicts on a figure's claims."""
    from experiments.analysis.verdicts import read
    from experiments.products.tidy_tables import REFERENCE, claims_file

    product = registry.product(name)
    results = REFERENCE if reference else check_scale(scale)
    _print_verdicts(read(claims_file(product, results)))


def _print_verdicts(verdicts: list[Any]) -> None:
    from experiments.analysis.verdicts import measured_text, threshold_text

    color = {"holds": "green", "fails": "red", "not judged": "yellow"}
    for v in verdicts:
        label = f"[bold {color[v.verdict]}]{v.verdict:<12}[/]"
        details = f"measured {measured_text(v)}, threshold {threshold_text(v)} ({v.source})"
        console.print(f"{label}{v.statement}", soft_wrap=True)
        for line in filter(None, (details, v.note)):
            console.print(f"[dim]{'':12}{line}[/]", soft_wrap=True)


@app.command(epilog="Example: `python -m experiments draw fig1 --reference`")
def draw(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: Scale = "small",
    reference: Annotated[bool, typer.Option(help="Redraw the committed reference run.")] = False,
) -> None:
    """Draw a figure from its table of runs, without training, and judge its claims."""
    from experiments.products import draw
    from experiments.products.tidy_tables import REFERENCE
    from experiments.runs.places import figures_dir

    product = registry.product(name)
    results = REFERENCE if reference else check_scale(scale)
    verdicts = draw.draw(product, results)
    console.print(f"{figures_dir(results) / name}.*", soft_wrap=True)
    _print_verdicts(verdicts)


@app.command(epilog="Examples: `python -m experiments plan fig1`; `plan --scale paper --again`")
def plan(
    names: Annotated[list[str] | None, typer.Argument(help="Figures or tables; or all.")] = None,
    scale: Scale = "small",
    data: Data = None,
    jobs: Jobs = CORES,
    again: Annotated[bool, typer.Option("--again", help="Time this machine again.")] = False,
) -> None:
    """Predict how long training takes, from steps timed on this machine (about ten seconds, once).

    For runs in the store it shows what was predicted for the steps they did, and what they took.
    """
    checked, sources = check_scale(scale), resolve_all(data)
    products = [*map(registry.product, names)] if names else [*registry.products().values()]
    if again:
        speed_file(jobs).unlink(missing_ok=True)
    head = ("target", "runs to train", "stored", f"time on {jobs} cores")
    columns = (*head, "stored: predicted", "took", "took / predicted")
    table = RichTable(*columns, box=None, pad_edge=False)
    for product in filter(lambda p: p.sweeps, products):
        try:
            source = sources[product.exhibit]
        except UserError as error:
            if names:
                raise
            note(f"{product.name}: {error}")
            continue
        runs, store = product.runs(checked, source), Store(results_dir(checked))
        found = planned(runs, store, timed(runs, jobs), jobs)
        happened = ("", "", "")
        if found.took:
            ratio = f"{found.took / found.predicted:.2f}"
            happened = (duration(found.predicted), duration(found.took), ratio)
        counts = (str(found.to_train), str(found.stored), duration(found.seconds))
        table.add_row(product.name, *counts, *happened)
    console.print(table)
    console.print("\nTimes of stored runs are of one core, of the steps that were done.")
