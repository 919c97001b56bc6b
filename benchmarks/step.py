"""What the engine's choices are worth: one training step, with each choice undone in turn.

    python benchmarks/step.py                     # widths 32, 128, 256; about three minutes
    python benchmarks/step.py --only "plain loss" "small pages"
    python benchmarks/step.py --profile 256       # where the time of a step goes

Every variant trains the same model on the same random tokens in a process of its own, in turn with
the others, one thread each. The table shows processor seconds per step of ours (with two threads,
seconds) and, for each variant, the ratio of its time to ours: above 1, our choice is faster. Median
over rounds, with minimum and maximum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
VARIANTS = {
    "ours": "",
    "default matmul": "set_float32_matmul_precision('highest')",
    "memory returned": "glibc's default thresholds and pages",
    "small pages": "of the machine's default size",
    "plain loss": "F.cross_entropy",
    "fused attention": "F.scaled_dot_product_attention",
    "unfused Adam": "torch.optim.Adam(fused=False)",
    "two threads": "torch.set_num_threads(2)",
    "chunked loss": "readout and cross-entropy together, 256 tokens at a time",
    "no denormals": "torch.set_flush_denormal(True)",
}
ROWS = 256
WARM_UP, STEPS = 5, 25


def measure(variant: str, width: int) -> float:
    """Median seconds of a step."""
    step = prepare(variant, width)
    clock = time.perf_counter if variant == "two threads" else time.process_time
    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = clock()
        step()
        seconds.append(clock() - start)
    return statistics.median(seconds[WARM_UP:])


def prepare(variant: str, width: int) -> Callable[[], float]:
    """A training step of a variant."""
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.nn.functional as F

    from experiments.families.transformer_wikitext2.spec import FIG1
    from experiments.families.transformer_wikitext2.task import build
    from experiments.models import transformer
    from experiments.models.cross_entropy import cross_entropy
    from experiments.train import engine, process

    if variant == "memory returned":
        process._keep_freed_memory = lambda: None
    if variant == "small pages":
        process._use_large_pages = lambda libc: None
    process.set_up()
    if variant == "default matmul":
        torch.set_float32_matmul_precision("highest")
    if variant == "two threads":
        torch.set_num_threads(2)
    if variant == "no denormals":
        torch.set_flush_denormal(True)
    if variant == "fused attention":

        def forward(self, x_BLD, mask_LL):
            q, k, v = (
                proj(x_BLD).unflatten(-1, (self.n_head, -1)).transpose(1, 2)
                for proj in (self.query, self.key, self.value)
            )
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
            return self.out(y.transpose(1, 2).flatten(2))

        transformer.Attention.forward = forward
    config = next(r for r in FIG1.runs("small", "wikitext2") if r.width == width)
    torch.manual_seed(0)
    model = build(config)
    optimizer = engine.make_optimizer(model, config)
    if variant == "unfused Adam":
        for group in optimizer.param_groups:
            group["fused"] = False
    tokens = torch.randint(config.vocab_size, (config.batch_size, config.seq_len + 1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()

    mean = F.cross_entropy if variant == "plain loss" else cross_entropy

    def loss_of(model):
        return mean(model(inputs).flatten(0, 1), targets)

    if variant == "chunked loss":
        loss_of = chunked(inputs, targets)

    def step() -> float:
        loss = loss_of(model)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def chunked(inputs, targets):
    """The loss without the logits of all tokens at once: their gradients are made on the way."""
    import torch

    class ReadoutLoss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x_ND, weight_VD):
            grad_ND, grad_VD = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
            total, minus = x_ND.new_zeros(()), x_ND.new_full((ROWS, 1), -1.0)
            for first in range(0, len(x_ND), ROWS):
                rows = slice(first, first + ROWS)
                p_RV = (x_ND[rows] @ weight_VD.t()).softmax(-1)
                total -= p_RV.gather(1, targets[rows, None]).log().sum()
                p_RV.scatter_add_(1, targets[rows, None], minus)
                torch.mm(p_RV, weight_VD, out=grad_ND[rows])
                grad_VD.addmm_(p_RV.t(), x_ND[rows])
            ctx.grads = grad_ND.div_(len(x_ND)), grad_VD.div_(len(x_ND))
            return total / len(x_ND)

        @staticmethod
        def backward(ctx, grad):
            return tuple(grad * one for one in ctx.grads)

    def loss_of(model):
        readout, model.readout = model.readout, torch.nn.Identity()
        x_ND = model(inputs).flatten(0, 1)
        model.readout = readout
        return ReadoutLoss.apply(x_ND, readout.weight)

    return loss_of


def profile(width: int) -> None:
    """Milliseconds of one step by kind of operator, as Markdown."""
    import torch
    from torch.profiler import ProfilerActivity

    step = prepare("ours", width)
    for _ in range(WARM_UP):
        step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    plain = (time.perf_counter() - start) / STEPS
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(STEPS):
            step()
    print(f"width {width}: {1e3 * plain:.1f} ms a step without the profiler\n")
    print("| operator | ms a step | calls |\n|---|---|---|")
    events = sorted(found.key_averages(), key=lambda e: -e.self_cpu_time_total)
    for event in events[:16]:
        milliseconds = event.self_cpu_time_total / STEPS / 1e3
        print(f"| {event.key} | {milliseconds:.2f} | {event.count / STEPS:.0f} |")
    rest = sum(event.self_cpu_time_total for event in events[16:]) / STEPS / 1e3
    print(f"| all others | {rest:.2f} | |")


def main() -> None:
    """Run all variants in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS)[1:], metavar="VARIANT")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "WIDTH"), help=argparse.SUPPRESS)
    parser.add_argument("--profile", type=int, metavar="WIDTH", help="of our step")
    args = parser.parse_args()
    if args.profile:
        profile(args.profile)
        return
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    others = args.only or list(VARIANTS)[1:]
    print("| width | ours, ms a step | " + " | ".join(others) + " |")
    print("|---" * (len(others) + 2) + "|")
    for width in args.widths:
        seconds: dict[str, list[float]] = {v: [] for v in ("ours", *others)}
        for _ in range(args.rounds):
            for variant in seconds:
                done = subprocess.run(
                    [sys.executable, __file__, "--one", variant, str(width)],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds[variant].append(json.loads(done.stdout))
        cells = [str(width), spread([1e3 * s for s in seconds["ours"]])]
        for variant in others:
            pairs = zip(seconds[variant], seconds["ours"], strict=True)
            cells.append(spread([theirs / ours for theirs, ours in pairs]))
        print("| " + " | ".join(cells) + " |", flush=True)


def spread(values: list[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
