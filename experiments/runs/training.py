"""Training what is missing, one run after another or in several processes."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from experiments.declare.config import RunConfig
from experiments.declare.way import ALONE, text_of
from experiments.errors import Interrupted, UserError
from experiments.messages import note
from experiments.runs.grouping import beginning_of, cost
from experiments.runs.memory import refuse_too_large
from experiments.runs.stopping import let_die, stopped
from experiments.runs.store import DamagedRunError, Provenance, Record, Store
from experiments.runs.versions import code_version, git_state

if TYPE_CHECKING:
    from experiments.train.checkpoint import Checkpoint
    from experiments.train.distributed import Team
    from experiments.train.engine import RunResult, Task
    from experiments.train.process import Machine
    from experiments.train.stacked import Member

SECONDS_BETWEEN_LINES = 30.0  # of news about a stack that is being trained

TRAIN = "train"  # what the first process of a team tells the others


def train_runs(
    runs: Iterable[RunConfig],
    store: Store,
    report: Callable[[Record], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    known: Iterable[RunConfig] = (),
    stack: int | None = 1,
    fill: Iterable[RunConfig] = (),
    team: Team | None = None,
    jobs: int = 1,
) -> list[Record]:
    """Train what is not in the store, one after another; every run is stored before the next.

    A run that another process is training comes last: this process waits for it and does not train
    it twice. A damaged file is named on stderr and set aside. Longer runs of `runs` or `known` come
    first, so that a run that is the beginning of a stored one reads its losses from that. A run
    that was interrupted goes on from its checkpoint.

    Args:
        runs: any runs.
        store: where they are or will be.
        report: called with each record, as soon as it is there.
        on_step: called with the number of each step and its loss while a run is training.
        known: further runs that may be in the store.
        stack: how many runs of one shape are trained together at most (`train.stacked`); None for
            as many as the GPU holds, and for one on a CPU.
        fill: further runs that may be trained together with one of `runs`.
        team: the processes that share each run; this one is the first of them.
        jobs: that stack runs on this machine's GPU.

    Returns:
        The records, in the order of `runs`.

    Raises:
        Interrupted: between two runs, if the workflow of this process was told to stop.
    """
    runs = list(runs)
    longer = _longer([*runs, *known])
    records: dict[str, Record] = {}
    _train_stacks(runs, store, stack, report, longer, fill, jobs)
    for wait in (False, True):
        left = {run.id: run for run in runs if run.id not in records}
        for run in sorted(left.values(), key=lambda r: -r.steps):
            record = _finish(run, store, longer(run), on_step, wait, team)
            if record is None:
                if stopped():
                    raise Interrupted
                continue
            records[run.id] = record
            if report is not None:
                report(record)
    return [records[run.id] for run in runs]


def help_with(
    runs: Iterable[RunConfig],
    store: Store,
    report: Callable[[Record], None],
    known: Iterable[RunConfig],
    stack: int | None = 1,
    jobs: int = 1,
    seconds: float = math.inf,
) -> None:
    """Train runs of other jobs that no process has begun, the costliest first, until none is left.

    So the jobs of a product end together, however well its groups were packed. A run that is the
    beginning of a longer one of `runs` waits until that is stored. No run waits for a longer one of
    `known` alone, which may never be trained.

    Args:
        runs, store, report, known, stack, jobs: as of `train_runs`.
        seconds: from now, in which the runs are to end by a rough prediction.
    """
    runs = [run for run in runs if cost(run) < seconds]
    own = {run.id for run in runs}
    longer = _longer([*runs, *known])
    end = time.monotonic() + seconds
    _train_stacks(runs, store, stack, report, longer, jobs=jobs, end=end)
    for run in sorted(runs, key=lambda r: (-cost(r), r.id)):
        if cost(run) < end - time.monotonic() and not store.looks_finished(run.id):
            others = [o for o in longer(run) if o.id in own or store.looks_finished(o.id)]
            record = _finish(run, store, others, None, wait=False)
            if record is not None:
                report(record)


def train_together(
    runs: Iterable[RunConfig],
    store: Store,
    jobs: int,
    report: Callable[[Record], None] | None = None,
    stack: int | None = 1,
) -> list[Record]:
    """Train what is not in the store in `jobs` processes, the costliest first; in `runs`' order.

    Args:
        runs: any runs.
        store: where they are or will be.
        jobs: processes at once.
        report: called with each record.
        stack: as of `train_runs`; what is trained together is trained before, by this process.
    """
    unique = {run.id: run for run in runs}
    train_stacks(unique.values(), store, stack)
    order = sorted(unique.values(), key=lambda r: (-cost(r), r.id))
    by_id: dict[str, Record] = {}
    with processes(jobs) as pool:
        for record in pool.map(_train_one, order, [store] * len(order)):
            by_id[record.id] = record
            if report is not None:
                report(record)
    return [by_id[run_id] for run_id in unique]


@contextmanager
def processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes that train.

    Raises:
        UserError: if one of them is killed.
    """
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn"), let_die) as pool:
            yield pool
    except BrokenProcessPool:
        raise UserError(
            "a process that trained was killed, maybe for lack of memory; finished runs are kept: "
            f"run it again, with fewer --jobs than {jobs} if memory is short"
        ) from None


def _train_one(run: RunConfig, store: Store) -> Record:
    return train_runs([run], store)[0]


def _finish(
    run: RunConfig,
    store: Store,
    longer: Sequence[RunConfig],
    on_step: Callable[[int, float], None] | None,
    wait: bool,
    team: Team | None = None,
) -> Record | None:
    """The stored run, which is trained if it is not there.

    None if this process would have to wait (another one is training the run, or a longer run that
    begins with it is not trained yet), or if its workflow was told to stop.
    """
    record = _stored(store, run)
    if record is not None:
        return record
    if stopped() or (not wait and missing(longer, store)):
        return None
    with store.claim(run.id, wait) as held:
        if not held:
            return None
        return _stored(store, run, claimed=True) or _train(run, store, longer, on_step, team)


def _stored(store: Store, run: RunConfig, claimed: bool = False) -> Record | None:
    """The stored run, or None; a file that cannot be read is set aside once the run is claimed."""
    try:
        return store.read(run.id)
    except FileNotFoundError:
        return None
    except DamagedRunError as error:
        if claimed:
            note(f"damaged run, kept as {store.set_aside(run.id)} and trained again: {error}")
        return None


def _longer(runs: Iterable[RunConfig]) -> Callable[[RunConfig], list[RunConfig]]:
    """Which of `runs` begin with a given run, as a function."""
    alike: dict[str | None, dict[str, RunConfig]] = {}
    for run in runs:
        alike.setdefault(beginning_of(run), {})[run.id] = run
    alike.pop(None, None)

    def longer(run: RunConfig) -> list[RunConfig]:
        others = alike.get(beginning_of(run), {}).values()
        return [other for other in others if other.steps > run.steps]

    return longer


def follow(run: RunConfig, store: Store, team: Team) -> None:
    """Compute this process's share of a run, if the first process of the team trains it.

    Args:
        run: any run.
        store: of the first process; this one neither reads nor writes it.
        team: of which this process is not the first.
    """
    while team.tell("") == TRAIN:
        _compute(run, store, (), None, team)


def _train(
    run: RunConfig,
    store: Store,
    longer: Iterable[RunConfig],
    on_step: Callable[[int, float], None] | None,
    team: Team | None,
) -> Record:
    """Train a run, or read it from a longer one, and store it; the run is claimed."""
    if team is not None:
        team.tell(TRAIN)
    record, checkpoint = _compute(run, store, longer, on_step, team)
    store.write(record)
    checkpoint.remove()
    return record


def _compute(
    run: RunConfig,
    store: Store,
    longer: Iterable[RunConfig],
    on_step: Callable[[int, float], None] | None,
    team: Team | None,
) -> tuple[Record, Checkpoint]:
    """Train a run, or read it from a longer one; its checkpoint is of no use once it is stored."""
    from experiments.train import engine
    from experiments.train.checkpoint import Checkpoint

    made = partial(_prepare, run)
    machine, task, origin = made()[0] if team is None else team.agreed(made)
    hold, way = (engine.Held, ALONE) if team is None else (team.hold, team.way)
    checkpoint = Checkpoint(store.checkpoint(run.id), {"id": run.id, **origin}, way)
    record = _beginning(run, store, longer, origin)
    if record is None:
        result = engine.train(run, task, machine, on_step, checkpoint, hold)
        record = _record(run, result, origin, run.flops(), computed=text_of(checkpoint.stretches))
    return record, checkpoint


def _prepare(run: RunConfig) -> tuple[tuple[Machine, Task, dict[str, Any]], dict[str, Any]]:
    """Where a run is trained, its task and origin; and what all who share it must have alike."""
    from experiments.declare.references import load
    from experiments.train import process

    refuse_too_large(run)
    machine = process.set_up()
    task: Task = load(run.task, run.family)(run)
    origin = _origin(run, machine, task.fingerprint)
    return (machine, task, origin), {"id": run.id, **origin}


def _beginning(
    run: RunConfig, store: Store, longer: Iterable[RunConfig], origin: dict[str, Any]
) -> Record | None:
    """A run as the beginning of a stored one, if the same code trained that on an equal machine."""
    from experiments.train import engine

    for other in longer:
        whole = store.look(other.id).record
        if whole is None or whole.metrics or whole.valid_losses or _differs(whole, origin):
            continue  # metrics are of the end, not of the beginning
        if whole.provenance.computed:
            continue  # rounded otherwise
        result = engine.beginning(whole.losses, whole.diverged_step, run.steps)
        if result is not None:
            stacked = whole.provenance.stacked
            return _record(run, result, origin, 0.0, derived_from=other.id, stacked=stacked)
    return None


def train_stacks(runs: Collection[RunConfig], store: Store, stack: int | None) -> None:
    """Train together what can be of `runs`, and leave the rest; arguments as of `train_runs`."""
    _train_stacks(runs, store, stack, None, _longer(runs))


def _train_stacks(
    runs: Collection[RunConfig],
    store: Store,
    stack: int | None,
    report: Callable[[Record], None] | None,
    longer: Callable[[RunConfig], list[RunConfig]],
    fill: Iterable[RunConfig] = (),
    jobs: int = 1,
    end: float = math.inf,
) -> None:
    """Train together what can be and what no process has begun; the rest is left to others.

    No stack is begun after `end`, by the monotonic clock.
    """
    if stack == 1:
        return
    own = {run.stack_key for run in runs if not store.looks_finished(run.id)}
    alike: dict[str, dict[str, RunConfig]] = {}
    for run in [*runs, *fill]:
        # A run that is the beginning of a longer one is read from that.
        if run.stack_key in own - {None} and not store.looks_finished(run.id) and not longer(run):
            alike.setdefault(str(run.stack_key), {})[run.id] = run
    for members in alike.values():
        left = list(members.values())
        size = stack_limit(left[0], jobs) if stack is None else stack
        while len(left) > 1 and size > 1 and time.monotonic() < end:
            now, left = left[:size], left[size:]
            size = _train_stack(now, store, report, size)
            if stopped():
                raise Interrupted


def stack_limit(run: RunConfig, jobs: int) -> int:
    """How many runs such as this each of the jobs on a GPU holds at once; 1 on a CPU."""
    from experiments.declare.references import load
    from experiments.train import process, stacked

    machine = process.set_up()
    if machine.device == "cpu":
        return 1
    members = [
        stacked.make_member(seeded, load(run.task, run.family)(seeded), machine)
        for seeded in (run, run.replace(seed=run.seed + 1))
    ]
    return stacked.largest(members, machine, jobs)


def _train_stack(
    runs: Sequence[RunConfig],
    store: Store,
    report: Callable[[Record], None] | None,
    size: int,
) -> int:
    """Train runs together, as far as they can be claimed and have one structure; store each.

    Where a stack does not fit, its runs are trained in halves, from their checkpoints.

    Returns:
        How many can be trained together: `size`, or what was found to fit.
    """
    with ExitStack() as claims:
        held = [run for run in runs if claims.enter_context(store.claim(run.id, wait=False))]
        left = [held]
        while left:
            now = [run for run in left.pop() if _stored(store, run, claimed=True) is None]
            if len(now) < 2:
                continue  # what is alone is trained alone
            try:
                _train_at_once(now, store, report)
                continue
            except RuntimeError as error:
                if not _ran_out(error):
                    raise
            half = (len(now) + 1) // 2
            size = min(size, half)
            note(
                f"{len(now)} runs of width {now[0].width} are too many for the GPU: {half} at once"
            )
            left += [now[half:], now[:half]]
    return size


def _ran_out(error: RuntimeError) -> bool:
    """Whether the GPU's memory was full, which it is no longer when this returns."""
    import torch

    from experiments.train import stacked

    found = stacked.ran_out(error)
    if found:
        error.__traceback__ = error.__context__ = None  # which hold the stack
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def _train_at_once(
    runs: Sequence[RunConfig], store: Store, report: Callable[[Record], None] | None
) -> None:
    """Train claimed runs together, those of one structure at a time."""
    from experiments.declare.references import load
    from experiments.train import engine, process, stacked
    from experiments.train.checkpoint import Checkpoint

    machine = process.set_up()
    groups: dict[Any, list[Member]] = {}
    tasks: dict[int, engine.Task] = {}  # one a seed, whose batches are those of all members
    for run in runs:
        refuse_too_large(run)
        task: engine.Task = load(run.task, run.family)(run)
        origin = _origin(run, machine, task.fingerprint)
        path = store.checkpoint(run.id)
        checkpoint = Checkpoint(path, {"id": run.id, **origin, "stacked": True})
        member = stacked.make_member(run, task, machine, checkpoint)
        member.task = tasks.setdefault(run.seed, task)
        groups.setdefault(stacked.structure(member), []).append(member)
    for members in groups.values():
        if len(members) > 1:
            _train_members(members, machine, store, report)


def _train_members(
    members: Sequence[Member],
    machine: Machine,
    store: Store,
    report: Callable[[Record], None] | None,
) -> None:
    from experiments.train import stacked

    count, told = len(members), time.monotonic()

    def done(member: Member, result: RunResult) -> None:
        run = member.config
        origin = _origin(run, machine, member.task.fingerprint)
        record = _record(run, result, origin, run.flops(), stacked=count)
        store.write(record)
        if member.checkpoint is not None:
            member.checkpoint.remove()
        if report is not None:
            report(record)

    def on_steps(step: int, left: int) -> None:
        nonlocal told
        if time.monotonic() - told > SECONDS_BETWEEN_LINES:
            told = time.monotonic()
            steps = members[0].config.steps
            note(f"{left} runs of width {members[0].config.width} together: step {step} of {steps}")

    stacked.train_stacked(members, machine, done, on_steps, stopped)


def _differs(record: Record, origin: dict[str, Any]) -> bool:
    return any(getattr(record.provenance, key) != value for key, value in origin.items())


def _origin(run: RunConfig, machine: Machine, fingerprint: str) -> dict[str, Any]:
    """What a run's bits depend on beside its configuration, by field of the provenance."""
    import torch

    return {
        "code_version": code_version(run.family),
        "data_fingerprint": fingerprint,
        "torch_version": torch.__version__,
        "device": machine.device,
        "threads": machine.threads,
        "matmul": machine.matmul,
    }


def _record(
    run: RunConfig,
    result: RunResult,
    origin: dict[str, Any],
    flops: float,
    derived_from: str = "",
    stacked: int = 0,
    computed: str = "",
) -> Record:
    commit, dirty = git_state()
    return Record(
        id=run.id,
        family=run.family,
        config=run.model_dump(),
        final_loss=result.final_loss,
        diverged=result.diverged_step is not None,
        diverged_step=result.diverged_step,
        losses=result.losses,
        metrics=dict(result.metrics),
        valid_losses=result.valid_losses,
        provenance=Provenance(
            **origin,
            git_commit=commit,
            git_dirty=dirty,
            seconds=result.seconds,
            flops=flops,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
            derived_from=derived_from,
            stacked=stacked,
            computed=computed,
        ),
    )


def parted(records: Iterable[Record]) -> list[str]:
    """Ids of runs that were made by other code than the checkout's."""
    return [r.id for r in records if r.provenance.code_version != code_version(r.family)]


def missing(runs: Iterable[RunConfig], store: Store) -> list[RunConfig]:
    """Runs that have no whole file in the store."""
    return [run for run in runs if not store.looks_finished(run.id)]
