"""Commands that train."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as RichTable

from experiments.cli.options import (
    CommandOfFamily,
    DataOption,
    JobsOption,
    ScaleOption,
    StackOption,
    console,
    scale_option,
    stack_size,
)
from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.data_sources import resolve_all
from experiments.declare.family import Family
from experiments.declare.scales import Scale
from experiments.declare.way import ALONE, Place, chosen, place
from experiments.errors import UserError, unknown
from experiments.messages import duration, hush, note
from experiments.runs.grouping import groups, needed_with
from experiments.runs.places import results_dir
from experiments.runs.planning import CORES
from experiments.runs.progress import Progress
from experiments.runs.sharing import train_shared
from experiments.runs.store import Record, Store
from experiments.runs.training import help_with, train_runs

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer()
RECORDINGS = 100  # of a replayed run, about
BLOW_UP_ROWS = 15
LAST_WORD = 5.0  # seconds
BRIEF = 60.0  # seconds after which a job looks for no work of other figures


@app.command(
    cls=CommandOfFamily,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `python -m experiments run transformer_wikitext2 --width 256 "
    "--parametrization mup --log2lr -7`. On two processes: `torchrun --nproc-per-node 2 -m "
    "experiments run transformer_wikitext2 --width 256 --parallel fsdp2`",
)
def run(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="A family of `list`.")],
    scale: Annotated[Scale, scale_option("Folder of results/ that keeps the run.")] = "small",
    data: DataOption = None,
    parallel: Annotated[
        str | None,
        typer.Option(help="ddp or fsdp2: share the run among processes that torchrun starts."),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(help="Parts of a batch that are computed one after another.", min=1)
    ] = 1,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Compute activations of blocks again: less memory.")
    ] = False,
) -> None:
    """Train one configuration. Every key of the family is an option: `run FAMILY --help`.

    How it is computed, by the last three options, is no part of its id (docs/distributed.md).
    """
    here = place()
    with _beside_the_first(here):
        way = chosen(parallel, accumulate, recompute, here)
        store = Store(results_dir(scale))
        config = _configured(registry.family(family), context.args, data)
        if store.looks_finished(config.id):
            note(f"run {config.id} is in the store already")
        with _bar(config, here is None or here.rank == 0) as on_step:
            if way == ALONE:
                record: Record | None = train_runs([config], store, on_step=on_step)[0]
            else:
                record = train_shared(config, store, way, here, on_step)
    if record is None:
        return
    outcome = f"diverged at step {record.diverged_step}"
    if not record.diverged:
        outcome = f"final training loss {record.final_loss:.4f} nats"
    console.print(f"{config.describe()}: {outcome} ({duration(record.provenance.seconds)})")
    console.print(str(store.path(config.id)), soft_wrap=True)


@contextmanager
def _beside_the_first(here: Place | None) -> Iterator[None]:
    """Silence on processes but the first of those that torchrun started: that one says the same.

    torchrun ends all when one ends. So one that cannot go on leaves the first time to say why.
    """
    if here is None or here.rank == 0:
        yield
        return
    hush()
    try:
        yield
    except UserError:
        time.sleep(LAST_WORD)
        raise


def _configured(family: Family, args: list[str], data: str | None) -> RunConfig:
    """The family's example with the given options."""
    given = _options(args, family)
    example = {**family.example, "data": family.resolve_data(data)}
    return family.config.of_example(example, given)


@contextmanager
def _bar(config: RunConfig, shown: bool = True) -> Iterator[Callable[[int, float], None]]:
    """A progress bar of a run: a function of each step and its loss."""
    from tqdm import tqdm

    with tqdm(
        total=config.steps, unit="step", desc=config.describe(), leave=False, disable=not shown
    ) as bar:

        def on_step(step: int, loss: float) -> None:
            bar.update()
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

        yield on_step


def _options(args: list[str], family: Family) -> dict[str, str]:
    """`--key value` and `--key=value` pairs as a dictionary of the configuration's keys."""
    options: dict[str, str] = {}
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise UserError(f"{word!r} is not an option; write --key value")
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        if key not in family.config.model_fields:
            raise unknown(f"key of {family.name}", key, family.config.model_fields)
        if not equals:
            if not rest:
                raise UserError(f"--{key} needs a value")
            value = rest.pop(0)
        options[key] = value
    return options


@app.command(
    cls=CommandOfFamily,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Example: `python -m experiments reverse transformer_wikitext2 --width 8192 "
    "--narrow 32 --parametrization sp --log2lr -6`",
)
def reverse(
    context: typer.Context,
    family: Annotated[str, typer.Argument(help="A family of `list`.")],
    narrow: Annotated[
        int | None, typer.Option(help="Width of the model that is trained.", min=1)
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Steps between recordings (steps / 100).", min=1)
    ] = None,
    scale: Annotated[Scale, scale_option("Folder of results/ that keeps the record.")] = "small",
    data: DataOption = None,
) -> None:
    """Replay a wide run in a narrow model, and show which activation blows up first.

    Every key of the family is an option (`reverse FAMILY --help`) and describes the wide run, which
    is not trained. The narrow width is the family's base width without `--narrow`.
    """
    chosen, folder = registry.family(family), results_dir(scale) / "reverse"
    wide = _configured(chosen, context.args, data)
    config = wide.narrowed(narrow or chosen.example["base_width"])
    from experiments.analysis import instability, style
    from experiments.products.tidying import write_frame
    from experiments.runs.reverse import replay

    with _bar(config) as on_step:
        found = replay(config, every or max(1, config.steps // RECORDINGS), on_step)
    path = folder / f"{config.id}.parquet"
    write_frame(path, found.trace)
    picture = instability.draw(found.trace, found.result.diverged_step)
    replayed = f"{wide.describe()}, replayed at width {config.width}"
    style.footer(picture, replayed)
    style.save(picture, path.with_suffix(".png"))
    outcome = instability.outcome(found.result.losses, found.result.diverged_step)
    console.print(f"{replayed}: {outcome} ({duration(found.result.seconds)})", soft_wrap=True)
    _print_blow_ups(instability.blow_ups(found.trace))
    console.print(f"{path}\n{path.with_suffix('.png')}", soft_wrap=True)


def _print_blow_ups(found: pd.DataFrame) -> None:
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


@app.command(epilog="Example: `python -m experiments tune transformer_wikitext2`")
def tune(
    family: Annotated[str, typer.Argument(help="A family with a search.")],
    scale: ScaleOption = "small",
    data: DataOption = None,
    jobs: JobsOption = CORES,
    stack: StackOption = "1",
) -> None:
    """Search base hyperparameters at the base width and record them for the sweeps."""
    from experiments.runs import tuning

    chosen = registry.family(family)
    search = tuning.search_of(chosen, scale)

    def report(stage: str, done: int, total: int, record: Record) -> None:
        if done == total or done % 10 == 0:
            note(f"tune: {stage}: {done} of {total} runs; last loss {record.final_loss:.3f}")

    source = chosen.resolve_data(data)
    result = tuning.tune(search, scale, source, jobs, report, stack_size(stack))
    for final in result["finalists"]:
        values = ", ".join(f"{k} {v:g}" for k, v in final["point"].items())
        score = "diverged" if final["score"] is None else f"score {final['score']:.4f}"
        console.print(f"{score}: {values}", soft_wrap=True)
    if scale == "smoke":
        console.print("not recorded: a search at the scale smoke finds nothing")
        return
    console.print(f"recorded in {tuning.save(family, scale, result)}", soft_wrap=True)


@app.command(hidden=True)
def train(
    group: Annotated[str, typer.Argument(help="Id of a group of runs.")],
    product: Annotated[
        list[str] | None,
        typer.Option(help="A figure or table that is being made; all, figures or tables."),
    ] = None,
    scale: ScaleOption = "small",
    data: DataOption = None,
    jobs: JobsOption = 1,
    stack: StackOption = "1",
    done: Annotated[Path | None, typer.Option(help="File to write at the end.")] = None,
    helping: Annotated[bool, typer.Option(help="Go on with runs of other groups.")] = True,
) -> None:
    """Train one group of runs; a job of the workflow."""
    found = resolve_all(data)
    by_id, needed = groups(scale, found)
    if group not in by_id:
        raise unknown("group", group, by_id)
    store, start = Store(results_dir(scale)), time.monotonic()
    if done is not None and not done.resolve().is_relative_to(store.folder.resolve()):
        raise UserError(f"--done {done} is outside {store.folder}")
    making = registry.asked(product) if product else []
    named = [name for name in making if name in (product or ())]
    names, ids = needed_with(group, needed, named) if helping else ([group], [group])
    runs = [run for i in ids for run in by_id[i].runs]

    def following() -> list[RunConfig]:
        from experiments.products.following import expected_of

        return expected_of(names, scale, found, store)

    size = stack_size(stack)
    progress = Progress(" ".join(names), runs, store, jobs, size, following)
    everything = [run for one in by_id.values() for run in one.runs]
    own, others = by_id[group].runs, runs if helping else ()
    sharing = jobs if helping else 1  # on a cluster each job has a GPU of its own
    train_runs(own, store, progress, known=everything, stack=size, fill=others, jobs=sharing)
    if done is not None:
        from experiments.files import write_atomically

        write_atomically(done, "".join(f"{r.id}\n" for r in by_id[group].runs).encode())
    if helping:
        help_with(runs, store, progress, known=everything, stack=size, jobs=sharing)
        # A process takes seconds to start, so that one with little work looks for more.
        family = own[0].family
        also = {i: None for name in making for i in needed[name] if i not in ids}
        others = [run for i in also for run in by_id[i].runs if run.family == family]
        rest = BRIEF - (time.monotonic() - start)
        if others and rest > 0:
            more = Progress(family, [*runs, *others], store, jobs, size)
            help_with(others, store, more, everything, size, sharing, seconds=rest)


@app.command(hidden=True)
def collect(
    name: Annotated[str, typer.Argument(help="A figure or table.")],
    scale: ScaleOption = "small",
    data: DataOption = None,
    jobs: JobsOption = 1,
    stack: StackOption = "1",
) -> None:
    """Gather a product's runs into tidy tables, or compute them; a job of the workflow."""
    from experiments.products import collect

    product = registry.product(name)
    source = resolve_all(data)[product.exhibit]
    collect.collect(product, scale, source, jobs, stack_size(stack))
