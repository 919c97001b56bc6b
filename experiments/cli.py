"""The command line. Errors of the user are one line and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

# One thread a process: before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import typer
from rich.console import Console
from rich.table import Table as RichTable

from experiments.declare import registry
from experiments.declare.spec import Exhibit, Experiment, Product, RunConfig, check_scale
from experiments.errors import UserError, unknown
from experiments.messages import duration, note
from experiments.runs.planning import CORES, known, measured, speed_file
from experiments.runs.planning import plan as planned
from experiments.runs.progress import Progress
from experiments.runs.store import STALE, Store
from experiments.runs.sweep import (
    cost,
    groups,
    help_with,
    missing,
    needed_with,
    resolve_data,
    results_dir,
    train_runs,
)

app = typer.Typer(
    help="Reproduce Tensor Programs V (µTransfer): train sweeps, draw figures, judge claims.",
    epilog="Whole figures: `snakemake fig1`. One training: "
    "`python -m experiments run transformer_wikitext2 --width 256 --log2lr -8`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(highlight=False)

Scale = Annotated[str, typer.Option(help="smoke, small or paper.")]
Data = Annotated[
    str | None,
    typer.Option(help="Data source; by default MUPKIT_DATA, the Hub, or a small built-in one."),
]
Jobs = Annotated[int, typer.Option(help="Processes at once, one thread each.", min=1)]
RECORDINGS = 100  # of a replayed run, about
BLOW_UP_ROWS = 15
STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def main() -> None:
    """Run the command line; a UserError becomes one line and exit status 2."""
    try:
        app()
    except UserError as error:
        note(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        where = f" {error.filename}" if error.filename else ""
        note(f"error: {error.strerror}:{where}; free space or mend rights, then run it again")
        sys.exit(2)


@app.command("list", epilog="Example: `python -m experiments list --scale paper`")
def list_(scale: Scale = "small") -> None:
    """List experiments, figures and tables."""
    checked = check_scale(scale)
    table = RichTable("target", "experiment", "runs", "title", box=None, pad_edge=False)
    for experiment in registry.experiments().values():
        for product in experiment.products:
            runs = str(len(product.runs(checked, "any"))) if product.sweeps else "none"
            table.add_row(product.name, experiment.name, runs, product.title)
    console.print(table)
    console.print(
        f"\nRuns at the scale {scale}. Train, measure and draw one with `snakemake {{target}}`; "
        "details with `python -m experiments show {target or experiment}`."
    )


@app.command(
    epilog="Examples: `python -m experiments show fig1 --scale paper`; "
    "`python -m experiments show transformer_wikitext2`"
)
def show(
    name: Annotated[str, typer.Argument(help="A figure, a table or an experiment.")],
    scale: Scale = "small",
) -> None:
    """Show what a figure trains or measures and claims, or which keys an experiment has."""
    if name in registry.experiments():
        _show_experiment(registry.experiment(name))
    else:
        _show_product(registry.product(name), check_scale(scale))


def _show_experiment(experiment: Exhibit) -> None:
    console.print(f"{experiment.title} ({experiment.name})\n")
    if not isinstance(experiment, Experiment):
        for product in experiment.products:
            console.print(f"{product.name}: {product.title}", soft_wrap=True)
        console.print("\nIt trains nothing, so it has no keys.")
        return
    table = RichTable("key", "type", "in `run`", "meaning", box=None, pad_edge=False)
    for key, field in experiment.config.model_fields.items():
        kind = str(field.annotation).replace("typing.", "").replace("<class '", "").rstrip("'>")
        value = experiment.example.get(key, None if field.is_required() else field.default)
        table.add_row(key, kind, "" if value is None else str(value), field.description or "")
    console.print(table)


def _show_product(product: Product, scale: Any) -> None:
    console.print(f"{product.name}: {product.title}\n{product.cited}\n\n{product.caption}\n")
    if product.sweeps:
        _show_sweeps(product, scale)
    elif product.measurement:
        settings = RichTable("setting", "value", box=None, pad_edge=False)
        for key, value in product.measurement.at(scale).items():
            settings.add_row(key, str(value))
        console.print(settings)
        console.print(f"\nmeasured without training by {product.measurement.function}\n")
    else:
        console.print("drawn by code alone\n")
    if product.claims:
        claims = RichTable("claim", "statement", "threshold", box=None, pad_edge=False)
        for claim in product.claims:
            threshold = f"{claim.relation} {claim.threshold:g} {claim.unit}"
            claims.add_row(claim.id, claim.statement, threshold)
        console.print(claims)


def _show_sweeps(product: Product, scale: Any) -> None:
    runs = product.runs(scale, "any")
    for sweep in product.sweeps:
        axes = RichTable("axis", "values", box=None, pad_edge=False)
        for key, values in sweep.axes(scale).items():
            axes.add_row(key, ", ".join(map(str, values)))
        console.print(axes)
    total = duration(sum(map(known().seconds, runs)))
    console.print(f"\n{len(runs)} runs at the scale {scale}, roughly {total} of one CPU core\n")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `python -m experiments run transformer_wikitext2 --width 256 "
    "--parametrization mup --log2lr -7`",
)
def run(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    scale: Annotated[str, typer.Option(help="Folder of results/ that keeps the run.")] = "small",
    data: Data = None,
) -> None:
    """Train one configuration. Every key that `show FAMILY` lists is an option: `--key value`."""
    store = Store(results_dir(check_scale(scale)))
    config = _configured(registry.trained(family), context.args, data)
    if store.looks_finished(config.id):
        note(f"run {config.id} is in the store already")
    with _bar(config) as on_step:
        record = train_runs([config], store, on_step=on_step)[0]
    outcome = f"diverged at step {record.diverged_step}"
    if not record.diverged:
        outcome = f"final training loss {record.final_loss:.4f} nats"
    console.print(f"{config.describe()}: {outcome} ({duration(record.provenance.seconds)})")
    console.print(str(store.path(config.id)), soft_wrap=True)


def _configured(experiment: Experiment, args: list[str], data: str | None) -> RunConfig:
    """The family's example with the given options."""
    values = {**experiment.example, **_options(args, experiment)}
    return experiment.config.make(**{**values, "data": experiment.source(data)})


@contextmanager
def _bar(config: RunConfig) -> Iterator[Callable[[int, float], None]]:
    """A progress bar of a run: a function of each step and its loss."""
    from tqdm import tqdm

    with tqdm(total=config.steps, unit="step", desc=config.describe(), leave=False) as bar:

        def on_step(step: int, loss: float) -> None:
            bar.update()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        yield on_step


def _options(args: list[str], experiment: Experiment) -> dict[str, str]:
    """`--key value` and `--key=value` pairs as a dictionary of the configuration's keys."""
    options: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} is not an option; write --key value")
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if key not in experiment.config.model_fields:
            raise unknown(f"key of {experiment.name}", key, experiment.config.model_fields)
        if not equals:
            if not rest:
                raise UserError(f"--{key} needs a value")
            value = rest.pop(0)
        options[key] = value
    return options


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `python -m experiments reverse transformer_wikitext2 --width 8192 "
    "--narrow 32 --parametrization sp --log2lr -6`",
)
def reverse(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="An experiment of `list`.")],
    narrow: Annotated[
        int | None, typer.Option(help="Width of the model that is trained.", min=1)
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Steps between recordings (steps / 100).", min=1)
    ] = None,
    scale: Annotated[str, typer.Option(help="Folder of results/ that keeps the record.")] = "small",
    data: Data = None,
) -> None:
    """Replay a wide run in a narrow model, and show which activation blows up first.

    Every key that `show FAMILY` lists is an option and describes the wide run, which is not
    trained. The narrow width is the family's base width without `--narrow`.
    """
    experiment, folder = registry.trained(family), results_dir(check_scale(scale)) / "reverse"
    wide = _configured(experiment, context.args, data)
    config = wide.narrowed(narrow or experiment.example["base_width"])
    from experiments.analysis import instability, plotting
    from experiments.runs.reverse import replay
    from experiments.runs.store import write_frame

    with _bar(config) as on_step:
        found = replay(config, every or max(1, config.steps // RECORDINGS), on_step)
    path = folder / f"{config.id}.parquet"
    write_frame(path, found.trace)
    picture = instability.draw(found.trace, found.result.diverged_step)
    replayed = f"{wide.describe()}, replayed at width {config.width}"
    plotting.footer(picture, replayed)
    plotting.save(picture, path.with_suffix(".png"))
    outcome = instability.outcome(found.result.losses, found.result.diverged_step)
    console.print(f"{replayed}: {outcome} ({duration(found.result.seconds)})", soft_wrap=True)
    _print_blow_ups(instability.blow_ups(found.trace))
    console.print(f"{path}\n{path.with_suffix('.png')}", soft_wrap=True)


def _print_blow_ups(found: Any) -> None:
    from experiments.analysis.instability import BLOW_UP, label

    table = RichTable("activation", "blew up at step", "growth", box=None, pad_edge=False)
    for tensor, step, growth in found.head(BLOW_UP_ROWS).itertuples(index=False):
        when = "-" if step != step else f"{step:.0f}"
        table.add_row(label(tensor), when, "-" if growth != growth else f"{growth:.3g}")
    console.print(table)
    console.print(
        f"blew up: more than {BLOW_UP:g} times its median so far, or not finite; growth: largest "
        f"over that median; {len(found)} activations",
        soft_wrap=True,
    )


@app.command(epilog="Example: `python -m experiments status fig1`")
def status(
    name: Annotated[str | None, typer.Argument(help="One figure or table; all without it.")] = None,
    scale: Scale = "small",
    data: Data = None,
) -> None:
    """Show how many runs are done, diverged, damaged, or made by other code.

    A measurement counts as one; what is drawn by code alone as none. `doctor` looks further.
    """
    checked, sources = check_scale(scale), resolve_data(data)
    products = [registry.product(name)] if name else [*registry.products().values()]
    columns = ("target", "data", "done", "of", "diverged", "damaged", "other code", "time left")
    table = RichTable(*columns, box=None, pad_edge=False)
    for product in products:
        try:
            source = sources[registry.owner(product.name).name]
        except UserError as error:
            if name:
                raise
            note(f"{product.name}: {error}")
            table.add_row(product.name, "missing")
            continue
        counts = _runs_status if product.sweeps else _measurement_status
        table.add_row(product.name, source, *counts(product, checked, source))
    console.print(table)


def _runs_status(product: Product, scale: Any, source: str) -> tuple[str, ...]:
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


def _measurement_status(product: Product, scale: Any, source: str) -> tuple[str, ...]:
    from experiments.runs.measuring import state

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
    from experiments.analysis.claims import read
    from experiments.products import REFERENCE, claims_file

    registry.product(name)
    results = REFERENCE if reference else check_scale(scale)
    _print_verdicts(read(claims_file(name, results)))


def _print_verdicts(verdicts: list[Any]) -> None:
    from experiments.analysis.claims import measured_text, threshold_text

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
    from experiments import products
    from experiments.runs.sweep import figures_dir

    registry.product(name)
    results = products.REFERENCE if reference else check_scale(scale)
    verdicts = products.draw(name, results)
    console.print(f"{figures_dir(results) / name}.*", soft_wrap=True)
    _print_verdicts(verdicts)


@app.command(epilog="Example: `python -m experiments tune transformer_wikitext2`")
def tune(
    family: Annotated[str, typer.Argument(help="An experiment with a search.")],
    scale: Scale = "small",
    data: Data = None,
    jobs: Jobs = CORES,
) -> None:
    """Search base hyperparameters at the base width and record them for the sweeps."""
    from experiments.runs import tuning

    experiment = registry.trained(family)
    if experiment.search is None:
        raise UserError(f"{family} declares no search")

    def report(stage: str, done: int, total: int, record: Any) -> None:
        if done == total or done % 10 == 0:
            note(f"tune: {stage}: {done} of {total} runs; last loss {record.final_loss:.3f}")

    result = tuning.tune(
        experiment.search, check_scale(scale), experiment.source(data), jobs, report
    )
    for final in result["finalists"]:
        values = ", ".join(f"{k} {v:g}" for k, v in final["point"].items())
        score = "diverged" if final["score"] is None else f"score {final['score']:.4f}"
        console.print(f"{score}: {values}", soft_wrap=True)
    if scale == "smoke":
        console.print("not recorded: a search at the scale smoke finds nothing")
        return
    console.print(f"recorded in {tuning.save(family, result)}", soft_wrap=True)


@app.command(epilog="Example: `python -m experiments forget fig1 --stale`")
def forget(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: Scale = "small",
    data: Data = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Only runs made by other code or of other data.")
    ] = False,
) -> None:
    """Drop stored runs or a measurement, so that the next workflow makes them again."""
    checked, product = check_scale(scale), registry.product(name)
    if not product.sweeps:
        console.print(_forget_measurement(product, checked, stale))
        return
    source = resolve_data(data)[registry.owner(name).name]
    dropped = _forget_runs(product.runs(checked, source), Store(results_dir(checked)), stale)
    console.print(f"{dropped} runs of {name} dropped")


def _forget_measurement(product: Product, scale: Any, stale: bool) -> str:
    from experiments.runs.measuring import forget, state

    if product.schematic:
        return f"{product.name} is drawn by code alone, there is nothing to forget"
    folder = results_dir(scale) / product.name
    found = state(product, folder)
    if found == "missing" or (stale and found == "done"):
        return f"0 measurements of {product.name} dropped"
    forget(product, folder)
    return f"1 measurement of {product.name} dropped"


def _forget_runs(runs: Any, store: Store, stale: bool) -> int:
    """Damaged runs are always dropped; with `stale` only those of other code, data or schema."""
    from experiments.runs.doctor import DataNow

    look = partial(store.look, data_now=DataNow() if stale else None)
    states = [(run.id, look(run.id).state) for run in runs]
    drop = [i for i, s in states if (s in ("damaged", *STALE) if stale else s != "missing")]
    for run_id in drop:
        store.remove(run_id)
    return len(drop)


@app.command(epilog="Examples: `python -m experiments doctor --mend`; with `--stale`")
def doctor(
    scale: Scale = "small",
    data: Data = None,
    mend: Annotated[bool, typer.Option("--mend", help="Remove what is named.")] = False,
    stale: Annotated[
        bool, typer.Option("--stale", help="With --mend, runs of other code or data too.")
    ] = False,
) -> None:
    """Look for damaged, left-behind and outdated files; exit status 1 if something was found.

    `--mend` removes only what the next workflow makes again or nobody needs.
    """
    from experiments.runs import doctor as doctors

    checked = check_scale(scale)
    if stale and not mend:
        raise UserError("--stale says what --mend removes; give both")
    found = doctors.examine(checked, resolve_data(data))
    done = doctors.mend(found, checked, stale) if mend else {}
    for finding in found:
        console.print(finding.line(done.get(finding), mend), soft_wrap=True, markup=False)
    wrong = sum(not finding.note for finding in found)
    if not wrong:
        console.print(f"results/{scale} is in order")
        return
    console.print(f"{wrong} found, {sum(done.values())} mended" if mend else f"{wrong} found")
    raise typer.Exit(1)


@app.command(epilog="Examples: `python -m experiments plan fig1`; `plan --scale paper --again`")
def plan(
    names: Annotated[list[str] | None, typer.Argument(help="Figures or tables; or all.")] = None,
    scale: Scale = "small",
    data: Data = None,
    jobs: Jobs = CORES,
    again: Annotated[bool, typer.Option("--again", help="Measure this machine again.")] = False,
) -> None:
    """Predict how long training takes, from steps timed on this machine (about ten seconds, once).

    For runs in the store it shows what was predicted for the steps they did, and what they took.
    """
    checked, sources = check_scale(scale), resolve_data(data)
    products = [*map(registry.product, names)] if names else [*registry.products().values()]
    if again:
        speed_file(jobs).unlink(missing_ok=True)
    head = ("target", "runs to train", "stored", f"time on {jobs} cores")
    columns = (*head, "stored: predicted", "took", "took / predicted")
    table = RichTable(*columns, box=None, pad_edge=False)
    for product in filter(lambda p: p.sweeps, products):
        try:
            source = sources[registry.owner(product.name).name]
        except UserError as error:
            if names:
                raise
            note(f"{product.name}: {error}")
            continue
        runs, store = product.runs(checked, source), Store(results_dir(checked))
        found = planned(runs, store, measured(runs, jobs), jobs)
        happened = ("", "", "")
        if found.took:
            ratio = f"{found.took / found.predicted:.2f}"
            happened = (duration(found.predicted), duration(found.took), ratio)
        counts = (str(found.to_train), str(found.stored), duration(found.seconds))
        table.add_row(product.name, *counts, *happened)
    console.print(table)
    console.print("\nTimes of stored runs are of one core, of the steps that were done.")


@app.command(hidden=True)
def train(
    group: Annotated[str, typer.Argument(help="Id of a group of runs.")],
    product: Annotated[
        list[str] | None, typer.Option(help="A figure or table that is being made.")
    ] = None,
    scale: Scale = "small",
    data: Data = None,
    jobs: Jobs = 1,
    done: Annotated[Path | None, typer.Option(help="File to write at the end.")] = None,
) -> None:
    """Train one group of runs; a job of the workflow."""
    checked, sources = check_scale(scale), resolve_data(data)
    by_id, needed = groups(checked, sources)
    if group not in by_id:
        raise unknown("group", group, by_id)
    store = Store(results_dir(checked))
    if done is not None and not done.resolve().is_relative_to(store.folder.resolve()):
        raise UserError(f"--done {done} is outside {store.folder}")
    names, ids = needed_with(group, needed, product or ())
    runs = [run for i in ids for run in by_id[i].runs]
    progress = Progress(" ".join(names), [(r, cost(r)) for r in runs], store, jobs)
    everything = [run for one in by_id.values() for run in one.runs]
    train_runs(by_id[group].runs, store, progress, known=everything)
    if done is not None:
        from experiments.files import write_atomically

        write_atomically(done, "".join(f"{r.id}\n" for r in by_id[group].runs).encode())
    help_with(runs, store, progress, known=everything)


@app.command(hidden=True)
def collect(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: Scale = "small",
    data: Data = None,
    jobs: Jobs = 1,
) -> None:
    """Gather a product's runs into tidy tables, or measure them; a job of the workflow."""
    from experiments import products

    registry.product(name)
    products.collect(name, check_scale(scale), resolve_data(data), jobs)


@app.command(epilog="Example: `python -m experiments reference fig1`")
def reference(
    name: Annotated[str, typer.Argument(help="A figure or table.")], scale: Scale = "small"
) -> None:
    """Make a finished figure the committed reference, and bring the README's verdicts up to it."""
    from experiments import products, readme

    registry.product(name)
    products.make_reference(name, check_scale(scale))
    readme.update()
