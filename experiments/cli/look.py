"""Commands that show something: what there is, how far it is, what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as RichTable
from rich.text import Text

from experiments.cli.options import (
    DataOption,
    JobsOption,
    ScaleOption,
    StackOption,
    console,
    keys_table,
    stack_size,
)
from experiments.declare import registry
from experiments.declare.data_sources import resolve_all
from experiments.declare.family import Exhibit, Family
from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.messages import duration, note, printable
from experiments.runs import tuning
from experiments.runs.places import results_dir
from experiments.runs.planning import CORES, Plan, known, left, speed_file, timed
from experiments.runs.planning import plan as planned
from experiments.runs.store import Store

if TYPE_CHECKING:
    from experiments.analysis.verdicts import Verdict

app = typer.Typer()
SHOWN = 0.02  # share of a product's time from which that of its runs' ends is told


@app.command("list", epilog="Example: `python -m experiments list --scale paper`")
def list_(scale: ScaleOption = "small") -> None:
    """List families, figures and tables."""
    table = RichTable("target", "family", "runs", "title", box=None, pad_edge=False)
    for product in registry.products().values():
        count = len(product.runs(scale, _usual_data(product)))
        runs = f"{count}{'+' * bool(product.follow_up)}" if product.sweeps else "none"
        table.add_row(product.name, product.exhibit, runs, product.title)
    console.print(table)
    console.print(
        f"\nRuns at the scale {scale}; +: others follow from what these give. Train, compute and "
        "draw one with `snakemake {target}`; details with `python -m experiments show {target or "
        "family}`."
    )


@app.command(
    epilog="Examples: `python -m experiments show fig1 --scale paper`; "
    "`python -m experiments show transformer_wikitext2`"
)
def show(
    name: Annotated[str, typer.Argument(help="A figure, a table or a family.")],
    scale: ScaleOption = "small",
    stack: StackOption = "1",
) -> None:
    """Show what a figure trains or computes and claims, or the keys and data of a family."""
    if name in registry.exhibits() and name not in registry.products():
        _show_exhibit(registry.exhibit(name))
    else:
        _show_product(registry.product(name), scale, stack_size(stack))


def _show_exhibit(exhibit: Exhibit) -> None:
    console.print(f"{exhibit.title} ({exhibit.name})\n")
    if isinstance(exhibit, Family):
        console.print(keys_table(exhibit))
    else:
        for product in exhibit.products:
            console.print(f"{product.name}: {product.title}", soft_wrap=True)
        console.print("\nIt trains nothing, so it has no keys.")
    if exhibit.data_sources:
        table = RichTable("data source", "shown as", box=None, pad_edge=False)
        for data_source, label in exhibit.data_sources.items():
            table.add_row(data_source, label)
        console.print()
        console.print(table)


def _show_product(product: Product, scale: Scale, stack: int | None) -> None:
    console.print(f"{product.name}: {product.title}\n{product.cited}\n\n{product.caption}\n")
    if product.sweeps:
        _show_sweeps(product, scale, stack)
    elif product.computation:
        settings = RichTable("setting", "value", box=None, pad_edge=False)
        for key, value in product.computation.at(scale).items():
            settings.add_row(key, str(value))
        console.print(settings)
        console.print(f"\ncomputed without training by {product.computation.function}\n")
    else:
        console.print("drawn by code alone\n")
    if product.claims:
        papers = ("paper's number",) if any(claim.paper for claim in product.claims) else ()
        columns = ("claim", "statement", "threshold", *papers)
        claims = RichTable(*columns, box=None, pad_edge=False)
        for claim in product.claims:
            threshold = f"{claim.relation} {claim.threshold:g} {claim.unit}"
            cells = (claim.id, claim.statement, threshold, claim.paper)
            claims.add_row(*cells[: len(columns)])
        console.print(claims)


def _usual_data(product: Product) -> str:
    return next(iter(registry.exhibit(product.exhibit).data_sources), "")


def _show_sweeps(product: Product, scale: Scale, stack: int | None) -> None:
    from experiments.products.following import expected

    for sweep in product.sweeps:
        axes = RichTable("axis", "values", box=None, pad_edge=False)
        for key, values in sweep.axes(scale).items():
            axes.add_row(key, ", ".join(map(str, values)))
        console.print(axes)
    data, store = _usual_data(product), Store(results_dir(scale))
    runs, more = product.runs(scale, data), expected(product, scale, data, store)
    follow = f", then {len(more)} that follow from what these give" if more else ""
    lacks = left(runs, store, known(stack=stack), CORES, more)
    console.print(
        f"\n{len(runs)} runs at the scale {scale}{follow}; time left on all cores of this machine: "
        f"{lacks.time}\n"
    )
    family = registry.family(product.exhibit)
    if scale in family.base_from:
        console.print(f"with {family.base_from[scale]}\n", soft_wrap=True)


@app.command(epilog="Example: `python -m experiments status fig1`")
def status(
    name: Annotated[str | None, typer.Argument(help="One figure or table; all without it.")] = None,
    scale: ScaleOption = "small",
    data: DataOption = None,
    stack: StackOption = "1",
) -> None:
    """Show how many runs are done, diverged, damaged, or made by other code.

    A computation counts as one run, and what code alone draws as none. Runs that follow from what
    others give are counted, too; their number is an estimate until those are done. The time left is
    that of all cores of this machine; "~" says that `plan` has not timed it yet, or not with
    `--stack`. `doctor` looks further.
    """
    table = RichTable(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    # Eighty characters, of which the time can give some.
    for column in ("target", "data", "done", "of", "diverged", "damaged", "other\ncode"):
        table.add_column(column, no_wrap=True)
    table.add_column("time\nleft")
    products = [registry.product(name)] if name else [*registry.products().values()]
    for product, data_source in _with_data(products, data, strict=bool(name)):
        if data_source is None:
            table.add_row(product.name, "missing")
            continue
        if product.sweeps:
            counts = _runs_status(product, scale, data_source, stack_size(stack))
        else:
            counts = _computation_status(product, scale, data_source)
        table.add_row(product.name, data_source, *counts)
    console.print(table)


def _with_data(
    products: Sequence[Product], data: str | None, strict: bool
) -> list[tuple[Product, str | None]]:
    """Products with their data sources; None, after a note, where the data cannot be had.

    Args:
        products: figures and tables.
        data: requested data source.
        strict: whether missing data are an error instead.
    """
    sources = resolve_all(data)
    found: list[tuple[Product, str | None]] = []
    for product in products:
        data_source = None
        try:
            data_source = sources[product.exhibit]
        except UserError as error:
            if strict:
                raise
            note(f"{product.name}: {error}")
        found.append((product, data_source))
    return found


def _runs_status(product: Product, scale: Scale, source: str, stack: int | None) -> tuple[str, ...]:
    from experiments.products.following import expected

    store = Store(results_dir(scale))
    more = expected(product, scale, source, store)
    runs = (*product.runs(scale, source), *more)
    found = [store.look(one.id).without_losses() for one in runs]
    unreadable = [one for one in found if one.record is None and one.state != "missing"]
    for one in unreadable:
        note(f"{one.state}: {one.reason}")
    states = Counter(one.state for one in found)
    records = [one.record for one in found if one.record]
    lacks = left(product.runs(scale, source), store, known(stack=stack), CORES, more)
    counts = (len(records), len(runs), sum(r.diverged for r in records), len(unreadable))
    return (*map(str, counts), str(states["other code"]), lacks.time)


def _computation_status(product: Product, scale: Scale, source: str) -> tuple[str, ...]:
    from experiments.products.computing import state

    if product.schematic:
        return ("0", "0")
    found = state(product, results_dir(scale) / product.name)
    counts = [found in states for states in (("done", "other code"), ("damaged",), ("other code",))]
    done, damaged, other = (str(int(count)) for count in counts)
    return (done, "1", "", damaged, other)


@app.command(epilog="Examples: `python -m experiments claims fig1`; with `--reference`")
def claims(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: ScaleOption = "small",
    reference: Annotated[bool, typer.Option(help="The committed reference run.")] = False,
) -> None:
    """Show the verdicts on a figure's claims."""
    from experiments.analysis.verdicts import read
    from experiments.products.tidy_tables import REFERENCE, Results, claims_file

    product = registry.product(name)
    results: Results = REFERENCE if reference else scale
    if not product.claims:
        console.print(
            f"{name} makes no claims; `python -m experiments show {name}` says what it is"
        )
        return
    _print_verdicts(read(claims_file(product, results)))


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    from experiments.analysis.verdicts import measured_text, threshold_text

    color = {"holds": "green", "fails": "red"}
    table = RichTable.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for v in verdicts:
        details = f"measured {measured_text(v)}, threshold {threshold_text(v)} ({v.source})"
        paper = f"the paper's number: {v.paper}" if v.paper else ""
        table.add_row(
            Text(v.verdict, f"bold {color.get(v.verdict, 'yellow')}"), Text(printable(v.statement))
        )
        for line in filter(None, (details, paper, v.note)):
            table.add_row("", Text(printable(line), "dim"))
    console.print(table)


@app.command(
    epilog="Examples: `python -m experiments draw fig1 --reference`; "
    "`draw fig1 --partial` while it is trained"
)
def draw(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: ScaleOption = "small",
    reference: Annotated[bool, typer.Option(help="Redraw the committed reference run.")] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Draw the runs that are done so far, judge nothing.")
    ] = False,
    mend: Annotated[
        bool, typer.Option("--mend", help="Make damaged tables again first; the workflow does.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Data source of the runs, with --partial or --mend.")
    ] = None,
) -> None:
    """Draw a figure from its tidy table, without training, and judge its claims."""
    from experiments.products import collect, draw
    from experiments.products.partial import draw_partial
    from experiments.products.tidy_tables import REFERENCE, DamagedTableError, Results
    from experiments.runs.places import figures_dir

    product = registry.product(name)
    results: Results = REFERENCE if reference else scale
    if reference + partial + mend > 1:
        raise UserError("give one of --reference, --partial and --mend")
    if partial:
        path, so_far = draw_partial(product, scale, resolve_all(data)[product.exhibit])
        console.print(f"{path}.*\n{so_far}; nothing is judged", soft_wrap=True)
        return
    if data is not None and not mend:
        raise UserError("--data says which runs --partial or --mend reads; give one of them")
    try:
        verdicts = draw.draw(product, results)
    except DamagedTableError as error:
        if not mend:
            raise
        note(f"{error.damage}; the tables of {name} are made again")
        collect.collect(product, scale, resolve_all(data)[product.exhibit])
        verdicts = draw.draw(product, results)
    console.print(f"{figures_dir(results) / name}.*", soft_wrap=True)
    _print_verdicts(verdicts)


@app.command(epilog="Examples: `python -m experiments plan fig1`; `plan --scale paper --again`")
def plan(
    names: Annotated[
        list[str] | None, typer.Argument(help="Figures or tables; all without any.")
    ] = None,
    scale: ScaleOption = "small",
    data: DataOption = None,
    jobs: JobsOption = CORES,
    stack: StackOption = "1",
    again: Annotated[bool, typer.Option("--again", help="Time this machine again.")] = False,
) -> None:
    """Predict how long training takes, from steps timed on this machine (ten seconds, once; up to
    two minutes where much is measured at a run's end).

    For stored runs it compares the prediction for the steps that they did with what they took.
    """
    from experiments.products.following import expected

    head = ("target", "runs to train", "stored", f"time on {jobs} cores", "of it at ends")
    columns = (*head, "stored: predicted", "took", "took / predicted")
    table = RichTable(*columns, box=None, pad_edge=False)
    products = [*map(registry.product, names)] if names else [*registry.products().values()]
    trained = [product for product in products if product.sweeps]
    found = _with_data(trained, data, strict=bool(names))
    if again:
        speed_file(jobs, stack_size(stack)).unlink(missing_ok=True)
    for product, data_source in found:
        if data_source is not None:
            runs, store = product.runs(scale, data_source), Store(results_dir(scale))
            more = expected(product, scale, data_source, store)
            speed = timed((*runs, *more), jobs, stack_size(stack))
            row = _plan_row(planned(runs, store, speed, jobs, more), jobs)
            table.add_row(product.name, *row)
    for family, data_source in _unsearched(found, scale):
        trials, finals = tuning.declared(family.searches[scale], data_source)
        store = Store(results_dir(scale))
        speed = timed((*trials, *finals), jobs, stack_size(stack))
        row = _plan_row(planned(trials, store, speed, jobs, finals), jobs)
        table.add_row(f"tune {family.name}", *row)
        note(tuning.unsearched(family, scale))
    console.print(table)
    console.print(
        "\nAfter +: runs that follow from what others give, an estimate until those are done. "
        "Times of stored runs are of one core and of the steps that were done. At ends: what is "
        "measured of a trained model, such as translations, finetuning and test images, timed with "
        "a model of a few steps; ?: longer than was timed, and not in the time."
    )


def _unsearched(
    products: Sequence[tuple[Product, str | None]], scale: Scale
) -> list[tuple[Family, str]]:
    """The families of products that declare a search at a scale and have no record of it yet."""
    exhibits = {product.exhibit: data for product, data in products if data is not None}
    found = ((registry.exhibit(name), data) for name, data in exhibits.items())
    return [(f, data) for f, data in found if isinstance(f, Family) and tuning.lacks(f, scale)]


def _plan_row(found: Plan, cores: int) -> tuple[str, ...]:
    left = found.left
    ends = duration(left.ends / cores) if left.ends >= SHOWN * left.seconds * cores > 0 else ""
    ends += f" ? of {left.endless} runs" if left.endless else ""
    counts = (left.count, str(found.stored), left.time, ends.strip())
    if not found.took:
        return (*counts, "", "", "")
    ratio = f"{found.took / found.predicted:.2f}"
    return (*counts, duration(found.predicted), duration(found.took), ratio)
