"""Training many runs: which are to do, in which groups, with progress, one after another."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from experiments import registry
from experiments.errors import UserError, unknown
from experiments.progress import note
from experiments.spec import RunConfig, Scale
from experiments.store import (
    ROOT,
    DamagedRunError,
    Provenance,
    Record,
    Store,
    code_version,
    git_state,
)

# Seconds that a group should take on one core, and the speed that this assumes: what an AVX-512
# core reached at widths 32 to 256. Elsewhere groups are longer or shorter, and still alike.
GROUP_SECONDS = 75.0
SECONDS_PER_STEP = 0.009
SECONDS_PER_FLOP = 1 / 1.8e11


def results_dir(scale: str) -> Path:
    """Where a scale's runs and tables are."""
    return ROOT / "results" / scale


def figures_dir(scale: str) -> Path:
    """Where a scale's pictures are."""
    return ROOT / "figures" / scale


def flops(run: RunConfig) -> float:
    """Training FLOPs of a run."""
    return registry.trained(run.family).cost(run)


def cost(run: RunConfig) -> float:
    """Rough seconds on one core: what groups are balanced and time left is estimated by."""
    return SECONDS_PER_STEP * run.steps + SECONDS_PER_FLOP * flops(run)


@dataclass(frozen=True)
class Group:
    """Runs that one job trains one after another."""

    runs: tuple[RunConfig, ...]

    @property
    def id(self) -> str:
        """12 digits of a hash of the runs' ids: other runs make another group."""
        return hashlib.sha256(" ".join(r.id for r in self.runs).encode()).hexdigest()[:12]


def groups(scale: Scale, data: dict[str, str]) -> tuple[dict[str, Group], dict[str, list[str]]]:
    """The jobs of a scale, and the jobs that each figure or table needs.

    Runs that the same set of products needs are grouped together, so that a product waits for
    nothing else and a shared run is in one group alone.

    Args:
        scale: one of the three.
        data: data source by experiment. Products of an experiment that is not in it have no
            groups: their data cannot be had.

    Returns:
        Groups by id; ids of groups by product.
    """
    needed_by: dict[str, list[str]] = {}
    runs: dict[str, RunConfig] = {}
    products = registry.products()
    for name, product in products.items():
        family = registry.owner(name).name
        for run in product.runs(scale, data[family]) if family in data else ():
            runs[run.id] = run
            needed_by.setdefault(run.id, []).append(name)
    by_products: dict[tuple[str, ...], list[RunConfig]] = {}
    for run_id, names in needed_by.items():
        by_products.setdefault(tuple(names), []).append(runs[run_id])
    all_groups: dict[str, Group] = {}
    of_product: dict[str, list[str]] = {name: [] for name in products}
    for names, members in by_products.items():
        for group in pack(members):
            all_groups[group.id] = group
            for name in names:
                of_product[name].append(group.id)
    return all_groups, of_product


def pack(runs: Sequence[RunConfig]) -> list[Group]:
    """Runs in groups of about equal cost, at most `GROUP_SECONDS` or one run each."""
    total = sum(map(cost, runs))
    count = max(1, min(len(runs), round(total / GROUP_SECONDS)))
    bins: list[list[RunConfig]] = [[] for _ in range(count)]
    load = [0.0] * count
    for run in sorted(runs, key=lambda r: (-cost(r), r.id)):
        lightest = load.index(min(load))
        bins[lightest].append(run)
        load[lightest] += cost(run)
    return [Group(tuple(members)) for members in bins if members]


class Sources(dict[str, str]):
    """Data source by experiment. One that cannot be had is an error only where it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: dict[str, UserError] = {}

    def __missing__(self, experiment: str) -> str:
        raise self.errors[experiment]


def resolve_data(requested: str | None = None) -> Sources:
    """The data source of every experiment; a request is for those that know the source.

    Raises:
        UserError: if no experiment knows the requested source, or the folder that `MUPKIT_DATA`
            names does not exist.
    """
    experiments = registry.experiments()
    known = {source for e in experiments.values() for source in e.sources}
    if requested is not None and requested not in known:
        raise unknown("data", requested, known)
    sources = Sources()
    for name, e in experiments.items():
        try:
            sources[name] = e.source(requested if requested in e.sources else None)
        except UserError as error:
            sources.errors[name] = error
    folder = os.environ.get("MUPKIT_DATA")
    if sources.errors and folder and not Path(folder).expanduser().exists():
        raise next(iter(sources.errors.values()))
    return sources


def train_runs(
    runs: Iterable[RunConfig],
    store: Store,
    report: Callable[[Record], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> list[Record]:
    """Train what is not in the store, one after another; every run is stored before the next.

    A run that another process is training is waited for, not trained twice. A damaged file is
    named on stderr and replaced.

    Args:
        runs: any runs; their order is kept.
        store: where they are or will be.
        report: called with each record as it is there.
        on_step: called with the number of each step and its loss while a run is training.

    Returns:
        The records, in the order of `runs`.
    """
    records = []
    for run in runs:
        record = _stored(store, run)
        if record is None:
            with store.claim(run.id):
                record = _stored(store, run)
                if record is None:
                    record = _train(run, on_step)
                    store.write(record)
        records.append(record)
        if report is not None:
            report(record)
    return records


def _stored(store: Store, run: RunConfig) -> Record | None:
    try:
        return store.read(run.id)
    except FileNotFoundError:
        return None
    except DamagedRunError as error:
        note(f"damaged run, training it again: {error}")
        store.remove(run.id)
        return None


def _train(run: RunConfig, on_step: Callable[[int, float], None] | None) -> Record:
    import torch

    from experiments import engine, process
    from experiments.spec import load

    machine = process.set_up()
    task: engine.Task = load(registry.trained(run.family).task)(run)
    result = engine.train(run, task, machine, on_step)
    commit, dirty = git_state()
    return Record(
        id=run.id,
        family=run.family,
        config=run.model_dump(),
        final_loss=result.final_loss,
        diverged=result.diverged_step is not None,
        diverged_step=result.diverged_step,
        losses=result.losses,
        provenance=Provenance(
            code_version=code_version(run.family),
            git_commit=commit,
            git_dirty=dirty,
            data_fingerprint=task.fingerprint,
            torch_version=torch.__version__,
            device=machine.device,
            threads=machine.threads,
            matmul=machine.matmul,
            seconds=result.seconds,
            flops=flops(run),
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def parted(records: Iterable[Record]) -> list[str]:
    """Ids of runs that were made by other code than the checkout's."""
    return [r.id for r in records if r.provenance.code_version != code_version(r.family)]


def missing(runs: Iterable[RunConfig], store: Store) -> list[RunConfig]:
    """Runs that have no whole file in the store."""
    return [run for run in runs if not store.looks_finished(run.id)]
