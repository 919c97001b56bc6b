"""Runs of Fig. 1 a second on a GPU: stacked, a process a run, and stock PyTorch.

    python benchmarks/gpu.py                      # widths 32 to 2,048; about five minutes
    python benchmarks/gpu.py --widths 32 --members 4 --seconds 1   # tiny, also without a GPU

All train the Transformer of Fig. 1 at the scale small on the same batches, each in a process of its
own, for some seconds after a warm-up. "Stacked" trains so many members as one batch
(`experiments.train.stacked`); "a process a run" is the engine alone, in one process and in several
at once; "stock" is `engine.py`'s model and loop. The table has steps a second, summed over runs,
and the share of the GPU's limit that the model FLOPs take (`config.flops`): the limit is the
fastest of a few large products in that precision, measured first. Without a GPU the same is done on
the CPU, which says nothing about a GPU. The last line is the table as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

import engine

PRECISIONS = ("float32", "tf32", "bfloat16")
WARM_UP = 3


def worker(kind: str, width: int, count: int, precision: str, seconds: float) -> dict[str, Any]:
    """Steps a second of one process, summed over its members."""
    sys.path.insert(0, str(engine.ROOT))
    import torch

    from experiments.train import process

    machine = process.set_up()
    if kind == "limit":
        return {"flops": limit(precision, machine.device)}
    if kind == "stacked":
        return stacked_steps(width, count, precision, seconds)
    if kind == "stock":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        step = engine.stock(width, "stock", machine.device)
    else:
        step = alone(width, precision)
    for _ in range(WARM_UP):
        step()
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        step()
        done += 1
    return {"rate": done / (time.perf_counter() - start), "members": 1}


def runs(width: int, count: int, precision: str) -> list[Any]:
    """Runs of Fig. 1 of one width: rates, seeds and both parametrizations in turn."""
    base = engine.config_of(width).replace(precision=precision, steps=10**6)
    return [
        base.replace(
            log2lr=-12.0 + 0.5 * (i // 2 % 12),
            parametrization="mup" if i % 2 else "sp",
            seed=i // 24,
        )
        for i in range(count)
    ]


def stacked_steps(width: int, count: int, precision: str, seconds: float) -> dict[str, Any]:
    """Steps of `count` members, or of as many as the GPU holds for 0."""
    import torch

    from experiments.families.transformer_wikitext2.task import LanguageModeling
    from experiments.train import process, stacked

    machine = process.set_up()
    chosen = runs(width, max(count, 1), precision)
    if count == 0:
        seeds = [chosen[0], chosen[0].replace(seed=chosen[0].seed + 1)]
        pair = [stacked.make_member(run, LanguageModeling(run), machine) for run in seeds]
        count = stacked.largest(pair, machine)
        del pair
        chosen = runs(width, count, precision)
    tasks = {run.seed: LanguageModeling(run) for run in chosen}
    members = [
        stacked.make_member(run, LanguageModeling(run) if i < 2 else _Like(tasks, run), machine)
        for i, run in enumerate(chosen)
    ]
    batches = {run.seed: tasks[run.seed].batches(machine.device) for run in chosen}
    start = time.perf_counter()
    stack = stacked.Stack(members, machine)
    stack.advance(batches, 0, WARM_UP)
    ready = time.perf_counter() - start
    start, done = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        stack.advance(batches, done, done + 10)
        done += 10
    rate = done * count / (time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 1e9 if machine.device == "cuda" else 0.0
    return {"rate": rate, "members": count, "ready": ready, "gigabytes": memory}


class _Like:
    """A task for building alone, with another's data."""

    def __init__(self, tasks: dict[int, Any], run: Any):
        self.task, self.run = tasks[run.seed], run

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def build(self) -> Any:
        from experiments.families.transformer_wikitext2.task import build

        return build(self.run)


def alone(width: int, precision: str) -> Any:
    """A step as `engine.train` does it."""
    from experiments.families.transformer_wikitext2.task import LanguageModeling
    from experiments.train import engine as ours
    from experiments.train import process

    machine = process.set_up()
    (config,) = runs(width, 1, precision)
    ours.choose_products(config, machine)
    task = LanguageModeling(config)
    held, batches = ours.Held(config, task, machine), task.batches(machine.device)

    def step() -> float:
        loss = held.loss(next(batches), 0)
        held.update()
        return loss

    return step


def limit(precision: str, device: str) -> float:
    """FLOPs a second of the fastest of a few large products."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    best = 0.0
    for size in (2048, 4096, 8192) if device == "cuda" else (256, 512):
        a = torch.randn(size, size, device=device, dtype=dtype)
        for _ in range(5):
            a @ a
        for _ in range(3):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(10):
                a @ a
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 20 * size**3 / (time.perf_counter() - start))
    return best


def measure(
    kind: str, width: int, count: int, precision: str, seconds: float, processes: int = 1
) -> dict[str, Any]:
    """What processes of a kind do at once: the sum of their rates."""
    words = [kind, str(width), str(count), precision, str(seconds)]
    command = [sys.executable, __file__, "--worker", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    printed = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        return {"rate": float("nan"), "members": count}
    found = [json.loads(text.splitlines()[-1]) for text in printed]
    if kind == "limit":
        return found[0]
    return {**found[0], "rate": sum(one["rate"] for one in found)}


def main() -> None:
    """Measure and print the table as Markdown, and as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128, 512, 2048])
    parser.add_argument(
        "--members", type=int, nargs="+", default=[32, 0], help="0: as many as the GPU holds"
    )
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=PRECISIONS)
    parser.add_argument("--processes", type=int, default=min(8, engine.CORES))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, width, count, precision, seconds = arguments.worker
        print(json.dumps(worker(kind, int(width), int(count), precision, float(seconds))))
        return
    sys.path.insert(0, str(engine.ROOT))
    import torch

    there = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if there else "no GPU: on the CPU"
    print(f"{card}, torch {torch.__version__}; steps a second, summed over runs\n")
    several = f"{arguments.processes} processes"
    head = ["width", "precision", "stock", "a process a run", several, "members", "stacked"]
    head += ["over one process", f"over {several}", "over stock", "share of the limit", "GB"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    rows = []
    for precision in arguments.precision:
        flops = measure("limit", 0, 0, precision, 0.0)["flops"]
        for width in arguments.widths:
            config = engine.config_of(width)
            stock, one, many = (
                measure(kind, width, 1, precision, arguments.seconds, processes)["rate"]
                for kind, processes in (
                    *(("stock", 1), ("alone", 1)),
                    ("alone", arguments.processes),
                )
            )
            for count in arguments.members:
                found = measure("stacked", width, count, precision, arguments.seconds)
                rate = found["rate"]
                share = rate * config.flops() / config.steps / flops
                rows.append(
                    {
                        "width": width,
                        "precision": precision,
                        "stock": stock,
                        "alone": one,
                        several: many,
                        "limit_tflops": flops / 1e12,
                        "share": share,
                        **found,
                    }
                )
                cells = [width, precision, f"{stock:.0f}", f"{one:.0f}", f"{many:.0f}"]
                cells += [found["members"], f"{rate:.0f}", f"{rate / one:.1f}"]
                cells += [f"{rate / many:.1f}", f"{rate / stock:.1f}", f"{share:.0%}"]
                cells += [f"{found.get('gigabytes', 0):.1f}"]
                print(f"| {' | '.join(map(str, cells))} |", flush=True)
    print(json.dumps({"card": card, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
