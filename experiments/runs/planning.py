"""How long training takes: predicted from steps timed on this machine, before anything is trained.

The time of a step depends on the run's shape: every key that is no real number (as rates are),
without seed, steps and schedule. A few shapes of a product are timed with the engine, in as many
processes at once as will train; the others are interpolated in FLOPs per step. So is what is
measured at a run's end (translations, finetuning, test images), timed with a model that has done a
few steps; where that takes too long to be timed, no time is claimed for it. Where runs are trained
together, steps of such stacks are timed, and a run has its share of them. The times only predict:
groups follow from fixed constants (`experiments.runs.grouping`), so that they do not change when a
machine is timed. Only the timing itself imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import signal
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from experiments.data.places import cache_dir
from experiments.declare.config import RunConfig
from experiments.declare.references import load
from experiments.files import DamagedFileError, locked, read_json, write_atomically
from experiments.messages import duration, note
from experiments.runs import grouping, training
from experiments.runs.store import Store

if TYPE_CHECKING:
    from experiments.train.process import Machine

SHAPES = 6  # timed at most, for one product
SECONDS = 9.0  # of steps for all of them
ENDING = 20.0  # seconds that the end of a run may take to be timed
WARM_UP = 3  # steps
LONGEST = 1e12  # FLOPs of a step that is timed; longer steps are extrapolated
NO_SHAPE = {"seed", "steps", "warmup", "schedule", "base_width"}
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
PROCESS = 4.0  # seconds until a process trains, where that was not timed


Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Timed:
    """A shape that was timed: FLOPs and seconds of a step, and seconds before the first one.

    Both are of one run; with several `members`, its share of their stack's, and `alone` has the
    seconds of a step of one run by itself. `end` has the seconds of what is measured at a run's
    end, which `ending` says in the words of `RunConfig.ending`; None if they were more than
    `ENDING`, or another program measures.
    """

    family: str
    what: str
    flops: Positive
    seconds: Positive
    start: Seconds
    ending: str = ""
    end: Seconds | None = 0.0
    members: Annotated[int, Field(ge=1)] = 1
    alone: Positive | None = None

    def step(self, together: int) -> float:
        """Seconds of a step of one of so many runs: between one alone and all members, linearly."""
        if self.alone is None or together >= self.members:
            return self.seconds
        more = (self.members * self.seconds - self.alone) / (self.members - 1)
        return (self.alone + more * (together - 1)) / together


@dataclass(frozen=True)
class Speed:
    """Times of this machine by shape; without any, `grouping.cost` stands for them."""

    shapes: dict[str, Timed] = field(default_factory=dict)
    process: Seconds = PROCESS

    def step(self, run: RunConfig, together: int = 1) -> float:
        """Seconds of a step of a run, of which so many are trained together."""
        found = self.shapes.get(shape(run))
        if found is not None:
            return found.step(together)
        points = [(t.flops, t.step(together)) for t in self._of(run)]
        return interpolate(points, step_flops(run)) if points else grouping.cost(run) / run.steps

    def end(self, run: RunConfig) -> float | None:
        """Seconds of what is measured at the end of a run; None if nothing like it was timed."""
        found = self.shapes.get(shape(run))
        if found is not None and found.end is not None:
            return found.end
        alike = [t for t in self._of(run) if t.ending == run.ending()]
        points = [(t.flops, t.end) for t in alike if t.end is not None]
        return interpolate(points, step_flops(run)) if points else None

    def seconds(self, run: RunConfig, steps: int | None = None, together: int = 1) -> float:
        """Seconds of a run, or of its first steps, on one core; all of them have the end, too.

        Of runs that are trained together it is the share of one.
        """
        found = self.shapes.get(shape(run))
        starts = [found.start] if found else [t.start for t in self._of(run)]
        start = statistics.median(starts) if starts else 0.0
        done = run.steps if steps is None else steps
        end = self.end(run) if done >= run.steps else None
        return start + self.step(run, together) * done + (end or 0.0)

    def members(self, run: RunConfig) -> int:
        """How many runs are trained together with it, this one included."""
        found = self.shapes.get(shape(run))
        most = max((t.members for t in ([found] if found else self._of(run))), default=1)
        return most if most > 1 and run.stack_key is not None else 1

    def knows(self, run: RunConfig) -> bool:
        """Whether a run of its family was timed."""
        return bool(self._of(run))

    def _of(self, run: RunConfig) -> list[Timed]:
        return [t for t in self.shapes.values() if t.family == run.family]


@dataclass(frozen=True)
class Left:
    """What a product lacks, and how long that takes: the one prediction that all commands give.

    Attributes:
        to_train: number of runs of its sweeps.
        to_follow: number of runs that follow from these; an estimate until all of them are there.
        seconds: of wall time until all is trained, on so many cores of this machine.
        timed: whether steps of its families were timed on this machine.
        ends: how many seconds of one core are measurements at the ends of runs.
        endless: number of runs whose measurements at the end are not in `seconds`, since they take
            too long to be timed.
    """

    to_train: int
    to_follow: int
    seconds: float
    timed: bool
    ends: float = 0.0
    endless: int = 0

    @property
    def count(self) -> str:
        """How many runs, such as "52 + 12": those that follow are added."""
        return f"{self.to_train} + {self.to_follow}" if self.to_follow else str(self.to_train)

    @property
    def time(self) -> str:
        """The time as people read it; "~" says that nothing was timed."""
        return f"{'' if self.timed else '~'}{duration(self.seconds)}"


@dataclass(frozen=True)
class Plan:
    """How long the missing runs of a product take, and what was predicted for the stored ones.

    Attributes:
        left: what is missing.
        stored: number of runs that are there.
        predicted, took: seconds of one core for the steps that stored runs did.
    """

    left: Left
    stored: int
    predicted: float
    took: float


def shape(run: RunConfig) -> str:
    """16 digits that are the same for runs whose steps take equally long."""
    values = {
        key: value
        for key, value in run.model_dump().items()
        if key not in NO_SHAPE and not isinstance(value, float)
    }
    text = json.dumps({"family": run.family, **values}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def step_flops(run: RunConfig) -> float:
    """FLOPs of one step."""
    return run.flops() / run.steps


def interpolate(points: Sequence[tuple[float, float]], flops: float) -> float:
    """Seconds at some FLOPs, on lines between timed points; the last line is drawn on.

    Below the first point a step is as long as there: that is where its overhead decides. One
    point alone is taken as a speed. Equal FLOPs are averaged.
    """
    by_flops: dict[float, list[float]] = {}
    for x, y in points:
        by_flops.setdefault(x, []).append(y)
    xs = sorted(by_flops)
    ys = [statistics.fmean(by_flops[x]) for x in xs]
    if flops <= xs[0]:
        return ys[0]
    if len(xs) == 1:
        return ys[0] * flops / xs[0]
    right = min(bisect_left(xs, flops), len(xs) - 1)
    slope = (ys[right] - ys[right - 1]) / (xs[right] - xs[right - 1])
    beyond = flops > xs[-1]
    if beyond:  # noise must not make more work take less time
        slope = max(slope, 0.5 * ys[-1] / xs[-1])
    return ys[right] + slope * (flops - xs[right])


def plan(
    runs: Sequence[RunConfig],
    store: Store,
    speed: Speed,
    cores: int,
    following: Sequence[RunConfig] = (),
) -> Plan:
    """The time that a product takes from here on, and what its stored runs took.

    Args:
        runs: of its sweeps.
        store: where they are or will be.
        speed: of this machine.
        cores: that train at once.
        following: runs that follow from what the sweeps give.
    """
    predicted, took, stored = 0.0, 0.0, 0
    for run in (*runs, *following):
        record = store.look(run.id).record
        stored += store.looks_finished(run.id)
        if record is not None and not record.provenance.derived_from:
            made = record.provenance
            predicted += speed.seconds(run, len(record.losses), made.stacked or 1)
            took += made.seconds
    return Plan(left(runs, store, speed, cores, following), stored, predicted, took)


def left(
    runs: Sequence[RunConfig],
    store: Store,
    speed: Speed,
    cores: int,
    following: Sequence[RunConfig] = (),
) -> Left:
    """What a product lacks; arguments as in `plan`. What follows is trained after the rest."""
    own, more = training.missing(runs, store), training.missing(following, store)
    ends = [speed.end(run) for run in (*own, *more) if speed.knows(run)]
    return Left(
        to_train=len(own),
        to_follow=len(more),
        seconds=seconds_left(own, speed, cores) + seconds_left(more, speed, cores),
        timed=all(map(speed.knows, (*own, *more))),
        ends=sum(end for end in ends if end is not None),
        endless=ends.count(None),
    )


def seconds_left(missing: Sequence[RunConfig], speed: Speed, cores: int) -> float:
    """Seconds until runs that are not there are trained on some cores."""
    units = _unit_seconds(missing, speed)
    jobs = len(grouping.pack(missing)) if missing else 0
    # Jobs help each other, so all cores are busy until the last run is on its way.
    together = (sum(units) + speed.process * jobs) / cores
    return max([together, *(speed.process + unit for unit in units)])


def _unit_seconds(runs: Sequence[RunConfig], speed: Speed) -> list[float]:
    """Seconds of each run or stack that is trained by one process at once.

    The beginning of another run is read from that.
    """
    longest: dict[str, RunConfig] = {}
    for run in sorted(runs, key=lambda r: r.steps):
        longest[grouping.beginning_of(run) or run.id] = run
    units: list[float] = []
    alike: dict[str, list[RunConfig]] = {}
    for run in longest.values():
        if speed.members(run) == 1:
            units.append(speed.seconds(run))
        else:
            alike.setdefault(str(run.stack_key), []).append(run)
    for together in alike.values():
        size = speed.members(together[0])
        for first in range(0, len(together), size):
            now = together[first : first + size]
            units.append(sum(speed.seconds(run, together=len(now)) for run in now))
    return units


# Timing


def speed_file(cores: int, stack: int | None = 1) -> Path:
    """Where the times of this machine are: its processor, torch, number of processes, and stacks.

    Args:
        cores: processes at once.
        stack: runs that are trained together, as of `training.train_runs`.
    """
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else platform.processor()
    model = next((line for line in text.splitlines() if line.startswith("model name")), text)
    key = f"{model} torch {version('torch')} threads 1 processes {cores} ends"
    key += "" if stack == 1 else f" stack {stack}"
    return cache_dir() / f"speed-{hashlib.sha256(key.encode()).hexdigest()[:12]}.json"


def known(cores: int = CORES, stack: int | None = 1) -> Speed:
    """The times that are stored for this machine; none, if there are none that can be read.

    Args:
        cores, stack: as of `speed_file`.
    """
    try:
        return read_json(speed_file(cores, stack), Speed)
    except FileNotFoundError:
        return Speed()
    except DamagedFileError as error:
        note(f"{error}; `python -m experiments plan` times this machine again")
        return Speed()


def known_best(cores: int = CORES, stack: int | None = 1) -> Speed:
    """The times of stacks, and those of runs alone of families of which no stack was timed.

    Args:
        cores, stack: as of `speed_file`.
    """
    own, alone = known(cores, stack), known(cores)
    families = {one.family for one in own.shapes.values()}
    others = {key: one for key, one in alone.shapes.items() if one.family not in families}
    return Speed({**others, **own.shapes}, own.process if families else alone.process)


def timed(runs: Sequence[RunConfig], cores: int, stack: int | None = 1) -> Speed:
    """The times of this machine, with those of a product's shapes, which are timed if need be.

    Args:
        runs: of one product.
        cores, stack: as of `speed_file`.
    """
    chosen = choose(runs)
    if chosen.keys() <= known(cores, stack).shapes.keys():
        return known(cores, stack)
    path = speed_file(cores, stack)
    with locked(Path(f"{path}.lock"), "this machine is being timed"):
        speed = known(cores, stack)
        todo = {key: run for key, run in chosen.items() if key not in speed.shapes}
        if todo:
            note(
                f"timing steps of {len(todo)} shapes, and the ends of their runs, in {cores} "
                "processes, ten seconds to two minutes"
            )
            new, process = _time_shapes(todo, runs, cores, stack)
            speed = Speed({**speed.shapes, **new}, process)
            write_atomically(path, json.dumps(asdict(speed), indent=1).encode())
        return speed


def choose(runs: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """Runs to time by shape: all shapes if they are few, else evenly spaced ones by FLOPs.

    Whatever is measured at a run's end is measured by one of them, unless its steps are too long.

    The run with the lowest rate stands for its shape, since it does not diverge. Shapes whose step
    is too long are left out; if all are, the family's example stands for them.
    """
    by_shape: dict[str, RunConfig] = {}
    for run in sorted(runs, key=lambda r: r.log2lr):
        by_shape.setdefault(shape(run), run)
    short = sorted((run for run in by_shape.values() if step_flops(run) <= LONGEST), key=step_flops)
    if not short:
        from experiments.declare import registry

        families = {run.family: run for run in runs}
        for name, run in families.items():
            family = registry.family(name)
            short.append(family.config.make(**{**family.example, "data": run.data}))
    by_ending: dict[str, RunConfig] = {}
    for run in short:
        by_ending.setdefault(f"{run.family} {run.ending()}", run)
    if len(short) > SHAPES:
        short = list({step_flops(run): run for run in short}.values())
        last, picks = len(short) - 1, min(SHAPES, len(short))
        short = [short[round(i * last / max(1, picks - 1))] for i in range(picks)]
    return {shape(run): run for run in (*short, *by_ending.values())}


def _time_shapes(
    chosen: Mapping[str, RunConfig], runs: Sequence[RunConfig], cores: int, stack: int | None
) -> tuple[dict[str, Timed], float]:
    """Times of each shape and of a process's start: means over processes that time at once."""
    each = SECONDS / len(chosen)
    stacks = [_alike(run, runs)[:stack] for run in chosen.values()]
    with training.processes(cores) as pool:
        wanted = (stacks, stack, cores, each)
        futures = [pool.submit(_time_all, *wanted) for _ in range(cores)]
        results = [future.result() for future in futures]
    times_by_shape = {}
    for i, (key, run) in enumerate(chosen.items()):
        found = [times[i] for _, times in results]
        ends = [each.end for each in found if each.end is not None]
        alone = [each.alone for each in found if each.alone is not None]
        times_by_shape[key] = Timed(
            run.family,
            run.describe(),
            step_flops(run),
            statistics.fmean(each.step for each in found),
            statistics.fmean(each.start for each in found),
            run.ending(),
            statistics.fmean(ends) if len(ends) == len(found) else None,
            min(each.members for each in found),
            statistics.fmean(alone) if alone else None,
        )
    return times_by_shape, statistics.fmean(ready for ready, _ in results)


class Times(NamedTuple):
    """Seconds of a step, before the first one, and of what is measured at the end (`Timed.end`).

    Those of a stack are the share of one of its members, beside a step of one run alone.
    """

    step: float
    start: float
    end: float | None
    members: int = 1
    alone: float | None = None


def _alike(run: RunConfig, runs: Sequence[RunConfig]) -> list[RunConfig]:
    """A run and those that may be trained together with it."""
    others = {r.id: r for r in runs if r.stack_key == run.stack_key is not None}
    return [*({run.id: run} | others).values()]


def _time_all(
    stacks: Sequence[Sequence[RunConfig]], stack: int | None, cores: int, budget: float
) -> tuple[float, list[Times]]:
    """Seconds until this process was ready, and the times of each stack."""
    from experiments.train import process

    machine = process.set_up()
    ready = time.process_time()
    first = time_steps(stacks[0][0], machine, 0.0).start  # of a process's first run, not of every
    times = []
    for runs in stacks:
        members = len(runs)
        if stack is None and members > 1:
            members = min(members, training.stack_limit(runs[0], cores))
        if members == 1:
            times.append(time_steps(runs[0], machine, budget))
        else:
            times.append(time_stack(runs[:members], machine, budget))
    return ready + max(0.0, first - times[0].start), times


def time_stack(runs: Sequence[RunConfig], machine: Machine, budget: float) -> Times:
    """As `time_steps`, of runs that are trained together, each of which is measured by itself."""
    from experiments.train import stacked

    clock = time.process_time if machine.device == "cpu" else time.perf_counter
    begin, end = clock(), time.perf_counter() + budget
    long = [run.replace(steps=max(run.steps, 100_000)) for run in runs]
    tasks = {run.seed: load(run.task, run.family)(run) for run in long}
    members = [stacked.make_member(r, load(r.task, r.family)(r), machine) for r in long]
    batches = {seed: task.batches(machine.device) for seed, task in tasks.items()}
    stack, done = stacked.Stack(members, machine), 0
    times: list[float] = []
    while len(times) <= WARM_UP + 1 or time.perf_counter() < end:
        stack.advance(batches, done, done + 1)
        done += 1
        times.append(clock())
    steps = [after - before for before, after in pairwise(times)]
    step, start = statistics.median(steps[WARM_UP:]) / len(runs), (times[0] - begin) / len(runs)
    alone = time_steps(runs[0], machine, budget / 10)
    return Times(step, start, alone.end, len(runs), alone.step)


class _EnoughError(BaseException):
    """Ends a timed training or measurement, whatever errors that catches."""


def time_steps(run: RunConfig, machine: Machine, budget: float) -> Times:
    """The times of a training that ends after `budget` seconds of steps.

    Without a budget its end is not timed. A step has its share of what is measured once an epoch.
    On a CPU they are the process's own time: what one thread takes on an idle core, however busy
    the machine is now.
    """
    from experiments.train import engine

    clock = time.process_time if machine.device == "cpu" else time.perf_counter
    make: Callable[[RunConfig], engine.Task] = load(run.task, run.family)
    make(run)  # what is prepared once is not timed
    begin, until = clock(), time.perf_counter() + budget
    task = make(run)
    times: list[float] = []

    def on_step(step: int, loss: float) -> None:
        times.append(clock())
        if len(times) > WARM_UP + 1 and time.perf_counter() > until:
            raise _EnoughError

    held: list[engine.Held] = []

    def hold(*given: Any) -> engine.Held:
        held.append(engine.Held(*given))
        return held[-1]

    long = run.replace(steps=max(run.steps, 100_000))
    with suppress(_EnoughError):
        holding = engine.Held if isinstance(task, engine.TrainsItself) else hold
        engine.train(long, task, machine, on_step, None, holding)
    steps = [after - before for before, after in pairwise(times)]
    step: float = statistics.median(steps[WARM_UP:] or steps)
    end = None
    if held and budget:
        end = _time_end(lambda: held[0].measure(task.evaluate), clock)
        if isinstance(task, engine.Validated):
            step += (_time_end(lambda: held[0].measure(task.validate), clock) or 0.0) / task.epoch
    return Times(step, times[0] - begin, end)


def _time_end(measure: Callable[[], object], clock: Callable[[], float]) -> float | None:
    """Seconds of a measurement; None if it takes longer than `ENDING`."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _EnoughError

    own = clock is time.process_time
    timer, number = (
        (signal.ITIMER_PROF, signal.SIGPROF) if own else (signal.ITIMER_REAL, signal.SIGALRM)
    )
    before, begin = signal.signal(number, stop), clock()
    try:
        signal.setitimer(timer, ENDING)
        measure()
        return clock() - begin
    except _EnoughError:
        return None
    finally:
        signal.setitimer(timer, 0)
        signal.signal(number, before)
