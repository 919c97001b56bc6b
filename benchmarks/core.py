"""What the core costs: µP optimizers beside torch's, and set-up beside building the model.

    python benchmarks/core.py                     # about half a minute

Each ratio is of two things timed in turn in one process, one thread, on the same work: above 1,
ours takes longer. Median over rounds, with minimum and maximum.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn

import mupkit

OPTIMIZERS = {
    "SGD": (mupkit.MuSGD, torch.optim.SGD, {"lr": 1e-3, "momentum": 0.9}),
    "Adam": (mupkit.MuAdam, torch.optim.Adam, {"lr": 1e-3}),
    "AdamW": (mupkit.MuAdamW, torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 0.1}),
}
SIZES = {"1,012 small": (84, 32, 8), "76 large": (6, 512, 64)}  # layers, width, base width


class GPT(nn.Module):
    """A plain GPT of torch's layers, 12 parameters per layer; it is never run."""

    def __init__(self, layers: int, width: int, vocab: int = 1000, length: int = 64):
        super().__init__()
        self.word = nn.Embedding(vocab, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.readout = mupkit.MuReadout(width, vocab, bias=False)


class Block(nn.Module):
    """The parameters of an attention and an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)


def timed(call: Callable[[], object], calls: int = 1) -> float:
    """Seconds per call."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def spread(values: list[float], digits: int = 2) -> str:
    """Median with minimum and maximum."""
    shown = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return "{} [{}, {}]".format(*shown)


def plain_gpt(layers: int, width: int, **sizes: int) -> nn.Module:
    """The same with a plain output layer."""
    model = GPT(layers, width, **sizes)
    model.readout = nn.Linear(width, model.word.num_embeddings, bias=False)
    return model


def steps(rounds: int) -> None:
    """Optimizer steps: ours, ours without the guard, and torch's, in turn."""
    print("| optimizer | parameters | torch's, ms a step | ours / torch's | groups | guard, µs |")
    print("|---" * 6 + "|")
    for size, (layers, width, base) in SIZES.items():
        for name, (ours, theirs, options) in OPTIMIZERS.items():
            for kind in ("foreach", "fused"):
                model = plain_gpt(layers, width)
                mupkit.parametrize(model, plain_gpt(layers, base))
                for p in model.parameters():
                    p.grad = torch.full_like(p, 1e-3)
                mup = ours(model, **options, **{kind: True})
                plain = theirs(model.parameters(), **options, **{kind: True})
                (guard,) = mup._optimizer_step_pre_hooks.values()
                calls = 20 if width < 100 else 4
                for optimizer in (mup, plain):
                    timed(optimizer.step, 3)
                ratios, base_times = [], []
                for i in range(rounds):
                    order = (mup, plain) if i % 2 else (plain, mup)
                    seconds = {id(o): timed(o.step, calls) for o in order}
                    ratios.append(seconds[id(mup)] / seconds[id(plain)])
                    base_times.append(1e3 * seconds[id(plain)])
                guards = [1e6 * timed(lambda g=guard, o=mup: g(o), 100) for _ in range(rounds)]
                cells = [f"{name}, {kind}", size, spread(base_times), spread(ratios)]
                cells += [str(len(mup.param_groups)), spread(guards, 1)]
                print("| " + " | ".join(cells) + " |", flush=True)


def set_up(rounds: int) -> None:
    """Seconds of set-up for 1,012 small parameters, beside building the model and beside mup."""
    layers, width, base = SIZES["1,012 small"]
    with torch.device("meta"):
        base_model, delta = GPT(layers, base), GPT(layers, 2 * base)
        plain_base, plain_delta = plain_gpt(layers, base), plain_gpt(layers, 2 * base)
    calls: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], object]]] = {
        "set_base_shapes": (
            lambda: GPT(layers, width),
            lambda m: mupkit.set_base_shapes(m, base_model, delta=delta),
        ),
        "parametrize, Table 3": (
            lambda: plain_gpt(layers, width),
            lambda m: mupkit.parametrize(m, plain_base, plain_delta),
        ),
        "parametrize, Table 9": (
            lambda: plain_gpt(layers, width),
            lambda m: mupkit.parametrize(m, plain_base, plain_delta, rules=mupkit.TABLE_9),
        ),
    }
    try:
        import mup
    except ImportError:
        print("the mup package is not installed: not compared")
    else:

        def oracle(width: int) -> nn.Module:
            model = GPT(layers, width)
            model.readout = mup.MuReadout(width, model.word.num_embeddings, bias=False)
            return model

        with torch.device("meta"):
            oracle_base, oracle_delta = oracle(base), oracle(2 * base)
        calls["mup.set_base_shapes"] = (
            lambda: oracle(width),
            lambda m: mup.set_base_shapes(m, oracle_base, delta=oracle_delta),
        )
    found: dict[str, list[float]] = {name: [] for name in ["building", *calls]}
    for _ in range(rounds):
        gc.collect()
        gc.disable()  # a collection takes longer than what is timed
        found["building"].append(timed(lambda: GPT(layers, width)))
        for name, (build, call) in calls.items():
            model = build()
            found[name].append(timed(lambda c=call, m=model: c(m)))
        gc.enable()
    print("\n| set-up of 1,012 parameters | ms | / building the model |\n|---|---|---|")
    for name, seconds in found.items():
        ratios = [s / b for s, b in zip(seconds, found["building"], strict=True)]
        shown = spread([1e3 * s for s in seconds], 1)
        print(f"| {name} | {shown} | {spread(ratios)} |", flush=True)


def large(rounds: int) -> None:
    """A GPT of 6.7 billion parameters without data."""
    seconds, sizes = [], {"vocab": 50257, "length": 2048}
    for _ in range(rounds):
        with torch.device("meta"):
            model, base = plain_gpt(32, 4096, **sizes), plain_gpt(32, 256, **sizes)
        before = resident()
        seconds.append(timed(lambda m=model, b=base: mupkit.parametrize(m, b)))
        grown = resident() - before
        count = sum(p.numel() for p in model.parameters())
        assert all(p.is_meta for p in model.parameters())
    print(f"\nparametrize, {count / 1e9:.2f} billion parameters on the meta device:", end=" ")
    print(f"{spread([1e3 * s for s in seconds], 1)} ms; memory grew by {grown / 2**20:.1f} MiB")


def resident() -> int:
    """Bytes of memory the process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps(args.rounds)
    set_up(args.rounds)
    large(args.rounds)


if __name__ == "__main__":
    main()
