"""One real training step of every configuration of the scale `paper` that this machine can hold.

    python benchmarks/paper_step.py --memory 16            # all that are not in the record
    python benchmarks/paper_step.py --only bert --memory 8
    python benchmarks/paper_step.py --most 1e13            # whole batches up to 1e13 FLOPs a step

Configurations that differ in rates, multipliers, seeds or lengths alone are one. Each is trained in
a process of its own, by the suite's own loop, the smallest first: a loss, an update, and the loss
after it. If that fails, as where memory ends, or takes more FLOPs than `--most`, a quarter of the
batch is tried, and so on to one example: this is another configuration, and the record says so,
with what was said. The record is
benchmarks/paper_steps.json; what is in it is not tried again, so the command can be stopped and
typed again. `python -m experiments paper-scale` then writes the page.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from experiments.declare import registry  # noqa: E402
from experiments.declare.config import RunConfig  # noqa: E402
from experiments.declare.references import load  # noqa: E402
from experiments.errors import UserError  # noqa: E402
from experiments.products.paper_scale import declared, steps  # noqa: E402
from experiments.products.paper_scale.steps import RECORD, Step  # noqa: E402
from experiments.runs import planning  # noqa: E402

GB = 1e9
SMALLER = 4  # part of a batch that is tried after it
WORDS = 200  # characters of an error that the record keeps
LEFT_FREE = 1.5  # GB of the machine's memory


class _EnoughError(Exception):
    """Ends a training."""


def one_step(run: RunConfig, limit_gb: float) -> Step:
    """Train one step of a run in this process.

    Raises:
        RuntimeError, MemoryError: as torch does where memory ends.
    """
    import torch

    from experiments.train import engine, process

    _limit(limit_gb)
    machine = process.set_up()
    task = load(run.task, run.family)(run)
    torch.manual_seed(run.seed)
    losses: list[float] = []
    times: list[float] = [time.perf_counter()]
    note, parameters = "", 0
    if isinstance(task, engine.TrainsItself):
        short = run.replace(steps=2, schedule="constant", warmup=0, beam=0)
        task = load(short.task, short.family)(short)
        losses = [*task.train(None).losses]
        times.append(time.perf_counter())
        parameters = count(short)
        note = "by fairseq, with its start and a validation"
    else:

        def on_step(step: int, loss: float) -> None:
            losses.append(loss)
            times.append(time.perf_counter())
            if step == 1:
                raise _EnoughError

        built = task.build

        def build() -> torch.nn.Module:
            nonlocal parameters
            model = built()
            parameters = sum(p.numel() for p in model.parameters())
            return model

        task.build = build
        with contextlib.suppress(_EnoughError):
            engine.train(run, task, machine, on_step)
    finite = len(losses) == 2 and all(map(math.isfinite, losses))
    return Step(
        outcome="done" if finite else "failed",
        data=run.data,
        parameters=parameters,
        batch=run.batch_size,
        declared_batch=run.batch_size,
        losses=tuple(losses),
        peak_gb=round(peak(), 2),
        seconds=round(times[-1] - times[-2], 4),
        note=note if finite else "a loss is not finite",
    )


def count(run: RunConfig) -> int:
    """Parameters of a run's model."""
    import torch

    with torch.device("meta"):
        return sum(p.numel() for p in declared.build(run).parameters())


def peak() -> float:
    """The largest memory of this process and of its children, in GB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) * unit / GB


def _limit(gb: float) -> None:
    """Let torch fail, and not the machine, where memory ends; if the machine's does, end first."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (int(gb * GB), int(gb * GB)))
        Path("/proc/self/oom_score_adj").write_text("1000")


def worker(family: str, values: str, limit_gb: float) -> None:
    """Try one run and print its step as JSON."""
    run = registry.family(family).config.make(**json.loads(values))
    print(json.dumps(asdict(one_step(run, limit_gb))))


def tried(one: declared.Configuration, limit_gb: float, most: float, timeout: float) -> Step:
    """What becomes of a configuration, in processes of their own."""
    run = one.run
    nothing = Step("too large", run.data, count(run), 0, run.batch_size, (), 0.0, 0.0, "")
    held = steps.held_gb(run, nothing.parameters)
    if held > limit_gb:
        return replace(nothing, note=f"weights, gradients and moments alone take {held:,.0f} GB")
    try:
        source = registry.family(run.family).resolve_data()
    except UserError as error:
        return replace(nothing, outcome="failed", note=str(error))
    batch, said = run.batch_size, ""
    while planning.step_flops(run.replace(batch_size=batch)) > most and batch >= SMALLER:
        batch //= SMALLER
        said = f"more than {most:.0e} FLOPs"
    while batch >= 1:
        values = json.dumps({**run.model_dump(), "data": source, "batch_size": batch})
        command = [sys.executable, __file__, "--worker", run.family, values, str(limit_gb)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            return replace(nothing, outcome="failed", note=f"more than {timeout:g} seconds")
        if done.returncode == 0:
            found = Step(**json.loads(done.stdout.splitlines()[-1]))
            why = f"larger batches: {said}" if said else ""
            note = "; ".join(filter(None, (found.note, why)))
            return replace(found, declared_batch=run.batch_size, note=note)
        if done.returncode < 0 and done.returncode != -signal.SIGKILL:  # as where memory ends
            sys.exit(f"stopped by signal {-done.returncode}; what was tried is in the record")
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        said = lines[-1].replace("|", "/")[:WORDS]
        batch //= SMALLER
    return replace(nothing, outcome="failed", data=source, note=said)


def free_gb() -> float:
    """Memory that is free on this machine, in GB."""
    if not Path("/proc/meminfo").exists():
        return math.inf
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = next(line for line in lines if line.startswith("MemAvailable"))
    return int(found.split()[1]) * 1024 / GB


def machine() -> str:
    """Processor and torch."""
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else os.uname().machine}, torch {torch.__version__}"


def main() -> None:
    """Try what the record lacks, one after another."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--memory", type=float, default=steps.LIMIT_GB, help="GB that a step may take"
    )
    parser.add_argument("--only", help="of this family")
    parser.add_argument("--most", type=float, default=math.inf, help="FLOPs of a whole batch")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds of a try")
    parser.add_argument("--again", action="store_true", help="those that failed or were too large")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        family, values, limit_gb = args.worker
        worker(family, values, float(limit_gb))
        return
    found = steps.read(args.output)
    known = {key for key, step in found.by_key.items() if step.outcome == "done" or not args.again}
    chosen = [
        one
        for one in declared.configurations()
        if one.key not in known and args.only in (None, one.run.family)
    ]
    for place, one in enumerate(chosen, 1):
        while free_gb() < min(args.memory, 2 + LEFT_FREE):
            time.sleep(20)
        limit_gb = min(args.memory, free_gb() - LEFT_FREE)
        step = tried(one, limit_gb, args.most, args.timeout)
        told = f"{step.outcome}, batch {step.batch} of {step.declared_batch}, {step.peak_gb} GB"
        told += f", {step.seconds} s {step.note}"
        print(
            f"{place} of {len(chosen)}: {one.run.family} {one.run.describe()}: {told}", flush=True
        )
        found = replace(found, machine=machine(), limit_gb=args.memory)
        found.by_key[one.key] = step
        steps.write(found, args.output)


if __name__ == "__main__":
    main()
