"""A training step of the MLP and of ResNet-9 beside stock PyTorch: one step, data included.

    python benchmarks/vision.py                   # about ten minutes
    python benchmarks/vision.py --rounds 1

Stock is what a good user writes: `nn.Sequential` or modules in the default memory layout, the
images normalized once and held in memory as float32, `torch.optim.SGD`, default matmul settings;
with one thread per process on every core, and with all threads in one process. The ResNet's stock
images are cropped and flipped as one batch, with one draw for all, which is cheaper than ours. All
draw the same batches of the same size. Time of a step on the whole machine, ours over theirs;
median over rounds, with minimum and maximum. The limit over stock is as in `engine.py`: the model's
FLOPs at the rate of the fastest product, of the MLP's own shapes, or, since convolutions have
kernels of their own, of a shape at which products are fastest. Nothing but products is in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable

from engine import CORES, ROOT, STOCK, limit, spread, timed

CASES = {"mlp": (64, 256, 1024), "resnet": (4, 8, 16)}
VARIANTS = {
    "ours": ("ours", 1),
    "ours, compiled": ("compiled", 1),
    "stock, one thread": ("stock", 1),
    "stock, all threads": ("stock", CORES),
    "limit": ("limit", 1),
}


def task_of(model: str, width: int):
    """Configuration and task of a case, as the figures have them."""
    from experiments.declare.references import load
    from experiments.families.mlp_cifar10.spec import FAMILY as MLP
    from experiments.families.resnet_cifar10.spec import FAMILY as RESNET

    family = {"mlp": MLP, "resnet": RESNET}[model]
    config = family.config.make(
        **{**family.example, "width": width, "data": family.resolve_data(), "log2lr": -6.0}
    )
    return config, load(config.task, config.family)(config)


def ours(model: str, width: int, compiled: bool = False) -> Callable[[], object]:
    """A step as the engine does it; with the model compiled, if so asked."""
    import torch

    from experiments.train import engine, process

    machine = process.set_up()
    config, task = task_of(model, width)
    held, batches = engine.Held(config, task, machine), task.batches("cpu")
    if compiled:
        held.model = torch.compile(held.model)

    def step() -> float:
        loss = held.loss(next(batches), 0)
        held.update()
        return loss

    return step


def stock(model: str, width: int) -> Callable[[], object]:
    """A step as a good user of PyTorch writes it."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    config, task = task_of(model, width)
    images = task.images
    inputs = images.train.float().div_(255).sub_(0.5).div_(0.25)
    d_in = images.train[0].numel()

    class ConvNorm(nn.Sequential):
        def __init__(self, fan_in: int, fan_out: int):
            conv = nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False)
            super().__init__(conv, nn.BatchNorm2d(fan_out), nn.ReLU())

    class Residual(nn.Sequential):
        def __init__(self, width: int):
            super().__init__(ConvNorm(width, width), ConvNorm(width, width))

        def forward(self, x):
            return x + super().forward(x)

    if model == "mlp":
        module = nn.Sequential(
            nn.Flatten(),
            nn.Linear(d_in, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.ReLU(),
            nn.Linear(width, 10, bias=False),
        )
    else:
        module = nn.Sequential(
            ConvNorm(images.train.shape[1], width),
            ConvNorm(width, 2 * width),
            nn.MaxPool2d(2),
            Residual(2 * width),
            ConvNorm(2 * width, 4 * width),
            nn.MaxPool2d(2),
            ConvNorm(4 * width, 8 * width),
            nn.MaxPool2d(2),
            Residual(8 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(8 * width, 10, bias=False),
        )
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=config.momentum)
    batches = task.batches("cpu")

    def step() -> float:
        batch = next(batches)
        index = batch if model == "mlp" else batch[0]
        x = inputs[index]
        if model == "resnet":
            down, right = batch[1].corner[0].tolist()
            x = F.pad(x, (4, 4, 4, 4), mode="reflect")[..., down : down + 32, right : right + 32]
            x = x.flip(-1) if batch[1].flip[0] else x
        loss = F.cross_entropy(module(x), images.train_labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def worker(kind: str, model: str, width: int, threads: int) -> dict[str, float]:
    """Median seconds of a step, and the process's peak memory."""
    sys.path.insert(0, str(ROOT))
    import torch

    if kind == "limit":
        from experiments.train.process import GEMM

        own = [(64, 3072, width), (width, 64, 3072), (64, width, width), (width, 64, width)]
        products = own if model == "mlp" else [GEMM, (4096, 512, 512)]
        return {"seconds": limit(products, torch.float32), "megabytes": 0.0}
    step = stock(model, width) if kind == "stock" else ours(model, width, kind == "compiled")
    return timed(step, threads)


def measure(variant: str, model: str, width: int) -> dict[str, float]:
    """Seconds of a step on the whole machine (of a GFLOP for the limit), and memory."""
    kind, threads = VARIANTS[variant]
    command = [sys.executable, __file__, "--worker", kind, model, str(width), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    count = CORES // threads
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    found = [json.loads(p.communicate()[0].splitlines()[-1]) for p in processes]
    return {
        "seconds": statistics.mean(one["seconds"] for one in found) / count,
        "megabytes": max(one["megabytes"] for one in found),
    }


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", nargs=4, metavar=("KIND", "MODEL", "WIDTH", "THREADS"))
    arguments = parser.parse_args()
    if arguments.worker:
        kind, model, width, threads = arguments.worker
        print(json.dumps(worker(kind, model, int(width), int(threads))))
        return
    sys.path.insert(0, str(ROOT))
    theirs = (*STOCK, "ours, compiled")
    head = ["model", "width", "ours, ms a step", *theirs, "the limit over stock"]
    head += ["peak memory, MB", "stock's"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for model, widths in CASES.items():
        for width in widths:
            rounds = [
                {v: measure(v, model, width) for v in VARIANTS} for _ in range(arguments.rounds)
            ]
            times = [{v: found["seconds"] for v, found in one.items()} for one in rounds]
            cells = [model, str(width), spread([1e3 * r["ours"] for r in times])]
            cells += [spread([r["ours"] / r[v] for r in times]) for v in theirs]
            config, _ = task_of(model, width)
            gflop = 1e-9 * config.flops() / config.steps
            cells.append(spread([gflop * r["limit"] / min(r[v] for v in STOCK) for r in times]))
            cells += [
                spread([one[v]["megabytes"] for one in rounds], 0)
                for v in ("ours", "stock, one thread")
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
