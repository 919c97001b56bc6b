"""Our training step beside stock PyTorch, the `mup` package, and the machine's own limit.

    python benchmarks/engine.py                   # widths 32 to 512; about 25 minutes
    python benchmarks/engine.py --widths 32 256 --rounds 1 --without "ours, compiled"

All train the same Transformer (2 layers, 4 heads, 2,000 words, batch 16, length 64, Adam, float32)
on the same batches of WikiText-2. The table compares the time of a step on the whole machine: with
one thread per process and one process per core, the time of a step over the number of cores; with
all threads in one process, the time of a step. Each variant runs in processes of its own, in turn
with the others. Median over rounds, with minimum and maximum. The limit is the best matrix product
of the model's shapes, on all cores at once, in float32 or in bfloat16; model FLOPs are those of
`config.flops`. "The limit over stock" is the time that the model FLOPs take at that limit over the
better stock variant's step; no program can undercut it on this machine. The last columns are how
much more all cores do than one alone, and the peak memory of one of our processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORES = os.cpu_count() or 1
VARIANTS = {
    "ours": ("ours", 1),
    "ours, one process alone": ("ours", 1),
    "ours, bfloat16": ("bfloat16", 1),
    "ours, compiled": ("compiled", 1),
    "stock, one thread": ("stock", 1),
    "stock, all threads": ("stock", CORES),
    "mup, one thread": ("mup", 1),
    "limit": ("limit", 1),
    "limit, bfloat16": ("limit16", 1),
}
STOCK = ("stock, one thread", "stock, all threads")
WARM_UP, SECONDS = 5, 4.0


def worker(kind: str, width: int, threads: int) -> dict[str, float]:
    """Median seconds of a step, or of a GFLOP for the limit, and the process's peak memory."""
    sys.path.insert(0, str(ROOT))
    import torch

    if kind in ("limit", "limit16"):
        dtype = torch.float32 if kind == "limit" else torch.bfloat16
        rows = 16 * 64
        products = [(width, width), (width, 4 * width), (4 * width, width), (width, 2000)]
        seconds = limit([(rows, *shape) for shape in products], dtype)
        return {"seconds": seconds, "megabytes": 0.0}
    step = {"ours": ours, "bfloat16": ours, "compiled": ours, "stock": stock, "mup": stock}[kind]
    return timed(step(width, kind), threads)


def timed(step: Callable[[], object], threads: int) -> dict[str, float]:
    """Median seconds of a step, and the process's peak memory."""
    import torch

    torch.set_num_threads(threads)
    for _ in range(WARM_UP):
        step()
    seconds = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds) < 5:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(seconds), "megabytes": peak}


def config_of(width: int, kind: str = "ours"):
    """The configuration of Fig. 1 at the scale small."""
    from experiments.data.text_source import choose_text
    from experiments.families.transformer_wikitext2.config import SMALL, TransformerConfig, tuned

    precision = "bfloat16" if kind == "bfloat16" else "float32"
    return TransformerConfig.make(
        **{**SMALL, **tuned("small"), "width": width, "log2lr": -8.0, "data": choose_text()},
        precision=precision,
    )


def batches_of(config):
    """The same batches for all."""
    from experiments.families.transformer_wikitext2.task import LanguageModeling

    return LanguageModeling(config).batches("cpu")


def ours(width: int, kind: str) -> Callable[[], object]:
    """A step as the engine does it."""
    import torch

    from experiments.families.transformer_wikitext2.task import LanguageModeling
    from experiments.train import engine, process

    machine = process.set_up()
    config = config_of(width, kind)
    task = LanguageModeling(config)
    model, batches = task.build(), batches_of(config)
    optimizer = engine.make_optimizer(model, config)
    forward = torch.compile(model) if kind == "compiled" else model

    def step() -> float:
        with engine._precision(config, machine):
            loss = task.loss(forward, next(batches))
        engine._update(model, optimizer, loss, None)
        return loss.item()

    return step


def stock(width: int, kind: str) -> Callable[[], object]:
    """A step as a good user of PyTorch, or of `mup`, writes it."""
    import mup
    import torch
    import torch.nn.functional as F
    from torch import nn

    lib = mup if kind == "mup" else None

    class Block(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.qkv, self.out = (
                nn.Linear(width, 3 * width, bias=False),
                nn.Linear(width, width, bias=False),
            )
            self.up, self.down = (
                nn.Linear(width, 4 * width, bias=False),
                nn.Linear(4 * width, width, bias=False),
            )
            self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.scale = 8 / (width // 4) if lib else None

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
            x = self.norm_1(x + self.out(y.transpose(1, 2).flatten(2)))
            return self.norm_2(x + self.down(F.relu(self.up(x))))

    class Model(nn.Module):
        def __init__(self, width: int):
            super().__init__()
            self.word = nn.Embedding(config.vocab_size, width)
            self.position = nn.Embedding(config.seq_len, width)
            self.blocks = nn.ModuleList([Block(width), Block(width)])
            make = mup.MuReadout if lib else nn.Linear
            self.readout = make(width, config.vocab_size, bias=False)

        def forward(self, tokens):
            x = self.word(tokens) + self.position(torch.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.readout(x)

    config = config_of(width)
    batches = batches_of(config)
    model = Model(width)
    if lib:
        lib.set_base_shapes(model, Model(32), delta=Model(64))
    optimizer = (mup.MuAdam if lib else torch.optim.Adam)(model.parameters(), lr=2**-8)

    def step() -> float:
        tokens = next(batches)
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def limit(products: list[tuple[int, int, int]], dtype) -> float:
    """Seconds of a GFLOP in the fastest of some products (rows, fan-in, fan-out)."""
    import torch

    torch.set_num_threads(1)
    best = float("inf")
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        for rows, fan_in, fan_out in products:
            a = torch.randn(rows, fan_in, dtype=dtype)
            b = torch.randn(fan_in, fan_out, dtype=dtype)
            gflop = 2e-9 * rows * fan_in * fan_out
            repeats = max(3, int(0.02 * 150 / gflop))
            for _ in range(12):
                start = time.perf_counter()
                for _ in range(repeats):
                    a @ b
                best = min(best, (time.perf_counter() - start) / repeats / gflop)
    return best


def measure(variant: str, width: int) -> dict[str, float]:
    """Seconds of a step on the whole machine (of a GFLOP per core for a limit), and memory."""
    kind, threads = VARIANTS[variant]
    count = 1 if variant.endswith("alone") else CORES // threads
    command = [sys.executable, __file__, "--worker", kind, str(width), str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    found = [json.loads(p.communicate()[0].splitlines()[-1]) for p in processes]
    seconds = statistics.mean(one["seconds"] for one in found)
    peak = max(one["megabytes"] for one in found)
    return {"seconds": seconds if "limit" in kind else seconds / count, "megabytes": peak}


def spread(values: list[float], digits: int = 2) -> str:
    """Median with minimum and maximum."""
    return (
        f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, "
        f"{max(values):.{digits}f}]"
    )


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=("ours, compiled", "ours, bfloat16", "mup, one thread"),
        metavar="VARIANT",
    )
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "WIDTH", "THREADS"))
    arguments = parser.parse_args()
    if arguments.worker:
        kind, width, threads = arguments.worker
        print(json.dumps(worker(kind, int(width), int(threads))))
        return
    sys.path.insert(0, str(ROOT))
    variants = [v for v in VARIANTS if v not in arguments.without]
    apart = ("ours", "ours, one process alone", "limit", "limit, bfloat16")
    others = [v for v in variants if v not in apart]
    print(f"{CORES} cores; ours over each, time of a step on the whole machine\n")
    head = ["width", "ours, ms a step", *others, "GFLOP/s a core", "limit", "share of it"]
    head += ["the limit over stock", "bfloat16 limit over stock"]
    head += [f"{CORES} cores over one", "peak memory, MB"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for width in arguments.widths:
        rounds = [{v: measure(v, width) for v in variants} for _ in range(arguments.rounds)]
        times = [{v: found["seconds"] for v, found in one.items()} for one in rounds]
        config = config_of(width)
        gflop = 1e-9 * config.flops() / config.steps
        rate = [gflop / (r["ours"] * CORES) for r in times]
        cells = [str(width), spread([1e3 * r["ours"] for r in times])]
        cells += [spread([r["ours"] / r[v] for r in times]) for v in others]
        cells += [spread(rate, 0), spread([1 / r["limit"] for r in times], 0)]
        cells += [spread([x * r["limit"] for x, r in zip(rate, times, strict=True)])]
        for bound in ("limit", "limit, bfloat16"):
            least = [gflop * r[bound] / CORES for r in times]
            stocks = [min(r[v] for v in STOCK) for r in times]
            cells += [spread([a / b for a, b in zip(least, stocks, strict=True)])]
        cells += [spread([r["ours, one process alone"] / r["ours"] for r in times])]
        cells += [spread([one["ours"]["megabytes"] for one in rounds], 0)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
