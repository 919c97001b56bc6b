"""How the time of each operation grows with the number of runs.

    python benchmarks/growth.py                                  # to 10,000 runs, ten minutes
    python benchmarks/growth.py --runs 100 1000 10000 100000     # hours

In a copy of the checkout one synthetic family declares a figure of so many runs, instead of all
families. Nothing is trained: its runs have made-up losses and are written through the store. Then
each operation is done on them in a process of its own. The table has seconds of the processor,
which a busy machine changes little; imports are not timed, but for those of whole commands
(`snakemake`, and a job's).

The exponent is that of the time beyond the one for the fewest runs, which every call costs, over
the number of further runs: 1 is linear. The exit status is 1 if an operation grows faster than
n^1.2. What takes less than 0.2 s with the most runs is too short to tell.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kills import copy_of_the_project

if TYPE_CHECKING:
    from experiments.declare.config import RunConfig
    from experiments.declare.product import Product
    from experiments.runs.store import Record, Store

STEEPEST = 1.2  # exponent of the time over the number of runs
SHORTEST = 0.2  # seconds that tell an exponent
STORED, EMPTY = "small", "smoke"  # the scale whose runs are there, and the one without any
FIGURE = "growth"
PER_SEED = 50  # runs: 2 parametrizations, 5 widths, 5 rates
STEPS = 250  # of a run, as of Fig. 1 at `small`
SPEC = '''"""Synthetic runs, which nobody trains: how the suite grows with their number."""

from __future__ import annotations

from typing import ClassVar

from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.declare.product import Figure
from experiments.declare.references import Call
from experiments.declare.statements import (
    LANDSCAPES, beats_sp, falls, keeps_gain, stays, transfers, wider_is_better,
)
from experiments.declare.sweep import Override, Sweep


class GrowthConfig(RunConfig):
    task: ClassVar[str] = f"{{__package__}}.task:Synthetic"


GRID = {{
    "parametrization": ("sp", "mup"),
    "width": (32, 64, 128, 256, 512),
    "log2lr": (-10, -9, -8, -7, -6),
}}
BASE = {{"base_width": 32, "steps": {steps}, "batch_size": 16}}
SWEEP = Sweep(
    "growth", GrowthConfig, BASE, GRID, {seeds}, {{"small": Override(), "smoke": Override()}}
)
FIGURE = Figure(
    name="growth",
    title="Synthetic runs",
    caption="Made-up losses.",
    source="no training",
    work="",
    sweeps=(SWEEP,),
    draw=Call(f"{{LANDSCAPES}}:draw_pair"),
    claims=tuple(
        claim("no training")
        for claim in (stays, wider_is_better, beats_sp, transfers, keeps_gain)
    )
    + (falls("no training", 0.5),),
)
FAMILY = Family(
    title="Synthetic runs",
    config=GrowthConfig,
    example={{**BASE, "width": 64, "log2lr": -7.0}},
    data_sources={{"synthetic": "synthetic numbers, no training"}},
    figures=(FIGURE,),
)
'''
TASK = '''"""What says which data the synthetic runs had."""


class Synthetic:
    fingerprint = "synthetic"

    def __init__(self, config):
        self.config = config
'''


# What runs in the copy


def product() -> Product:
    """The figure."""
    from experiments.declare import registry

    return registry.product(FIGURE)


def declared() -> tuple[RunConfig, ...]:
    """Its runs."""
    return product().runs(STORED, "synthetic")


def store() -> Store:
    """Where they are."""
    from experiments.runs.places import results_dir
    from experiments.runs.store import Store

    return Store(results_dir(STORED))


def records(runs: Sequence[RunConfig]) -> list[Record]:
    """Synthetic records: a noisy parabola over the rate, whose minimum moves with width in SP."""
    import random

    from experiments.runs.store import Provenance, Record
    from experiments.runs.versions import code_version

    origin = Provenance(
        code_version=code_version(FIGURE),
        git_commit="",
        git_dirty=False,
        data_fingerprint="synthetic",
        torch_version="none",
        device="none",
        threads=1,
        matmul="none",
        seconds=1.0,
        flops=0.0,
        finished_at="2000-01-01T00:00:00+00:00",
    )
    found = []
    for run in runs:
        draw = random.Random(f"{run.seed} {run.log2lr} {run.width}")
        size = math.log2(run.width / run.base_width)
        best = -8 - (0.75 * size if run.parametrization == "sp" else 0)
        least = 4 - 0.1 * size + 0.02 * (run.log2lr - best) ** 2
        lost = run.parametrization == "sp" and run.log2lr > best + 3
        losses = [least + 3 * 0.98**step + draw.gauss(0, 0.01) for step in range(run.steps)]
        found.append(
            Record(
                id=run.id,
                family=run.family,
                config=run.model_dump(),
                final_loss=math.nan if lost else statistics.fmean(losses[-run.steps // 10 :]),
                diverged=lost,
                diverged_step=run.steps // 2 if lost else None,
                losses=tuple(losses[: run.steps // 2 + 1] if lost else losses),
                provenance=origin,
            )
        )
    return found


@dataclass
class Seconds:
    """Wall time, and time of the processor: of this process and of those that it started."""

    wall: float = 0.0
    processor: float = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Add a block's."""
        wall, processor = time.perf_counter(), sum(os.times()[:4])
        yield
        self.wall += time.perf_counter() - wall
        self.processor += sum(os.times()[:4]) - processor


def write(timed: Seconds) -> None:
    """Write all runs, a thousand at a time, so that their losses are not all in memory."""
    runs, place = declared(), store()
    for first in range(0, len(runs), 1000):
        batch = records(runs[first : first + 1000])
        with timed():
            for record in batch:
                place.write(record)


def looks_finished(timed: Seconds) -> None:
    """Ask whether each is there, as reading the Snakefile does."""
    from experiments.runs.training import missing

    runs, place = declared(), store()
    with timed():
        lost = missing(runs, place)
    assert not lost


def group(timed: Seconds) -> None:
    """Declare the runs and pack them in groups."""
    from experiments.runs.grouping import groups

    product()
    with timed():
        groups(STORED, {FIGURE: "synthetic"})


def command(timed: Seconds, *words: str) -> None:
    """A whole command; it may say what it likes, and must end well."""
    with timed():
        done = subprocess.run(
            (sys.executable, "-m", *words), capture_output=True, text=True, env=os.environ
        )
    assert done.returncode == 0, done.stderr[-2000:]


def planned(timed: Seconds) -> None:
    """`snakemake -n`, with no run there."""
    command(timed, "snakemake", "-n", FIGURE, "--config", f"scale={EMPTY}")


def nothing_to_do(timed: Seconds) -> None:
    """`snakemake -n`, with all runs and their markers there."""
    from experiments.runs.grouping import groups

    folder = store().folder / "groups"
    folder.mkdir(exist_ok=True)
    for name, one in groups(STORED, {FIGURE: "synthetic"})[0].items():
        (folder / f"{name}.done").write_text("".join(f"{r.id}\n" for r in one.runs) + "0\n")
    command(timed, "snakemake", "-n", FIGURE, "--config", f"scale={STORED}")


def job(timed: Seconds) -> None:
    """A job that finds the runs of its group there."""
    from experiments.runs.grouping import groups

    name = next(iter(groups(STORED, {FIGURE: "synthetic"})[0]))
    command(timed, "experiments", "train", name, "--scale", STORED)


def progress(timed: Seconds) -> None:
    """Tell after each run how many there are."""
    from experiments.runs.progress import Progress

    runs, place = declared(), store()
    (one,) = records(runs[-1:])
    with timed():
        tell = Progress(FIGURE, runs, place, 2)
        for _ in runs:
            tell(one)


def collect(timed: Seconds) -> None:
    """Gather the runs into tidy tables."""
    from experiments.products import collect

    with timed():
        collect.collect(product(), STORED, "synthetic")


def draw(timed: Seconds) -> None:
    """Draw the figure and judge its claims."""
    from experiments.products import draw

    with timed():
        draw.draw(product(), STORED)


def judge(timed: Seconds) -> None:
    """Judge the claims alone."""
    from experiments.products import draw, tidy_tables

    table, scale = tidy_tables.read_runs(product(), STORED)
    with timed():
        found = draw.judge(product(), table, table, scale)
    assert all(verdict.note != "" or verdict.value is not None for verdict in found)


def partial(timed: Seconds) -> None:
    """`draw --partial`."""
    from experiments.products.partial import draw_partial

    with timed():
        draw_partial(product(), STORED, "synthetic")


def status(timed: Seconds) -> None:
    """`status`."""
    from experiments.cli import look

    with timed():
        look.status(None, STORED)


def plan(timed: Seconds) -> None:
    """`plan`, on a machine that was timed before."""
    from experiments.runs import planning

    runs = declared()
    chosen = planning.choose(runs)
    shapes = {
        key: planning.Timed(FIGURE, run.describe(), planning.step_flops(run), 0.01, 0.1)
        for key, run in chosen.items()
    }
    with timed():
        planning.plan(runs, store(), planning.Speed(shapes), 2)


def doctor(timed: Seconds) -> None:
    """`doctor`."""
    from experiments.products.doctor.examine import examine

    with timed():
        examine(STORED)


def report(timed: Seconds) -> None:
    """The report."""
    from experiments.products.report.page import make_report

    with timed():
        make_report(STORED, Path("report.html"))


def forget(timed: Seconds) -> None:
    """`forget --stale`, after the code has changed: drops all runs."""
    from experiments.cli import keep

    task = Path("experiments/families") / FIGURE / "task.py"
    task.write_text(TASK + "\n\nCHANGED = True\n")
    with timed():
        keep.forget(FIGURE, STORED, stale=True)
    assert not [*(store().folder / "runs").iterdir()]


OPERATIONS: dict[str, Callable[[Seconds], None]] = {
    "write the runs": write,
    "look whether they are there": looks_finished,
    "declare and group them": group,
    "`snakemake -n`, nothing there": planned,
    "`snakemake -n`, all there": nothing_to_do,
    "a job whose runs are there": job,
    "a line of progress after each": progress,
    "collect into tidy tables": collect,
    "draw and judge": draw,
    "judge alone": judge,
    "`draw --partial`": partial,
    "`status`": status,
    "`plan`": plan,
    "`doctor`": doctor,
    "the report": report,
    "`forget --stale`": forget,
}


def inside(operation: str) -> None:
    """One operation in the copy: its seconds and the peak of memory in MB, as JSON."""
    sys.path.insert(0, str(Path.cwd()))
    out = os.dup(1)
    os.dup2(2, 1)  # what it prints is not looked at
    seconds = Seconds()
    OPERATIONS[operation](seconds)
    sys.stdout.flush()
    who = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    peak = max(resource.getrusage(one).ru_maxrss for one in who) / 1024
    os.write(out, json.dumps({**asdict(seconds), "megabytes": peak}).encode())


# What makes the copies


def measure(runs: int, names: Sequence[str], steps: int) -> dict[str, dict[str, float]]:
    """Seconds and megabytes of each operation on so many runs, in the order of `names`."""
    import shutil

    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder = Path(name)
        project = copy_of_the_project(folder, Path(__file__), Path(__file__).with_name("kills.py"))
        families = project / "experiments" / "families"
        for family in (path for path in families.iterdir() if path.is_dir()):
            shutil.rmtree(family)
        (families / FIGURE).mkdir()
        (families / FIGURE / "spec.py").write_text(SPEC.format(seeds=runs // PER_SEED, steps=steps))
        (families / FIGURE / "task.py").write_text(TASK)
        env = {k: v for k, v in os.environ.items() if not k.startswith("MUPKIT")}
        env |= {"MUPKIT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        env |= {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
        found = {}
        for one in names:
            words = (sys.executable, "benchmarks/growth.py", "--inside", one)
            done = subprocess.run(words, cwd=project, env=env, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{one}, {runs} runs: {done.stderr[-2000:]}")
            found[one] = json.loads(done.stdout)
            told = "{wall:.2f} s, of the processor {processor:.2f} s, {megabytes:.0f} MB"
            print(f"{runs} runs, {one}: {told.format(**found[one])}", file=sys.stderr, flush=True)
    return found


def exponent(runs: Sequence[int], seconds: Sequence[float]) -> float | None:
    """The slope of log time over log runs, both beyond those of the fewest; None if too short."""
    beyond = [
        (math.log(n - runs[0]), math.log(t - seconds[0]))
        for n, t in zip(runs[1:], seconds[1:], strict=True)
        if t - seconds[0] > SHORTEST / 10
    ]
    if len(beyond) < 2 or seconds[-1] < SHORTEST:
        return None
    return statistics.linear_regression(*zip(*beyond, strict=True)).slope


def table(runs: Sequence[int], found: Sequence[dict[str, dict[str, float]]]) -> tuple[str, bool]:
    """The Markdown table, and whether an operation grows too fast."""
    most = f"{runs[-1]:,} runs"
    heads = ["operation", *(f"{n:,} runs, s" for n in runs), "exponent"]
    heads += [f"wall time, {most}, s", f"peak memory, {most}, MB"]
    lines = [heads, ["---"] * len(heads)]
    steep = False
    for name in found[0]:
        times = [one[name]["processor"] for one in found]
        slope = exponent(runs, times)
        steep |= slope is not None and slope > STEEPEST
        told = "–" if slope is None else f"{slope:.2f}"
        last = found[-1][name]
        cells = [name, *(f"{t:,.2f}" for t in times), told]
        lines.append([*cells, f"{last['wall']:,.2f}", f"{last['megabytes']:,.0f}"])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines), steep


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, nargs="+", default=[100, 1_000, 10_000], help="multiples of 50"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="losses of a run")
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="operations whose names have one of these words"
    )
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    found = parser.parse_args()
    if any(n <= 0 or n % PER_SEED for n in found.runs):
        parser.error(f"--runs: multiples of {PER_SEED}, as many as a seed has")
    return found


def main() -> None:
    """Measure at each number of runs and print the table."""
    chosen = options()
    if chosen.inside:
        inside(chosen.inside)
        return
    runs = sorted({*chosen.runs})
    first = next(iter(OPERATIONS))  # the others need what it makes
    words: Any = chosen.only or [""]
    names = [n for n in OPERATIONS if n == first or any(word in n for word in words)]
    text, steep = table(runs, [measure(n, names, chosen.steps) for n in runs])
    print(text)
    if steep:
        sys.exit(f"an operation grows faster than n^{STEEPEST:g}")


if __name__ == "__main__":
    main()
