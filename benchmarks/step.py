"""What the engine's choices are worth: one training step, with each choice undone in turn.

    python benchmarks/step.py                     # widths 32, 128, 256; about a minute

Every variant trains the same model on the same random tokens in a process of its own, in turn with
the others, one thread each. Shown are seconds a step of ours and, for each variant, the ratio of
its time to ours: above 1, our choice is faster. Median over rounds, with minimum and maximum.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
VARIANTS = {
    "ours": "",
    "default matmul": "set_float32_matmul_precision('highest')",
    "memory returned": "glibc's default thresholds",
    "fused attention": "F.scaled_dot_product_attention",
    "unfused Adam": "torch.optim.Adam(fused=False)",
    "two threads": "torch.set_num_threads(2)",
}
WARM_UP, STEPS = 5, 25


def measure(variant: str, width: int) -> float:
    """Median seconds of a step."""
    sys.path.insert(0, str(ROOT))
    import torch
    import torch.nn.functional as F

    from experiments import engine, process
    from experiments.models import transformer
    from experiments.transformer_wikitext2.spec import FIG1
    from experiments.transformer_wikitext2.task import build

    if variant == "memory returned":
        process._keep_freed_memory = lambda: None
    process.set_up()
    if variant == "default matmul":
        torch.set_float32_matmul_precision("highest")
    if variant == "two threads":
        torch.set_num_threads(2)
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
    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[WARM_UP:])


def main() -> None:
    """Run all variants in turn and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "WIDTH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    print("| width | ours, ms a step | " + " | ".join(list(VARIANTS)[1:]) + " |")
    print("|---" * (len(VARIANTS) + 1) + "|")
    for width in args.widths:
        seconds: dict[str, list[float]] = {v: [] for v in VARIANTS}
        for _ in range(args.rounds):
            for variant in VARIANTS:
                done = subprocess.run(
                    [sys.executable, __file__, "--one", variant, str(width)],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    check=True,
                )
                seconds[variant].append(json.loads(done.stdout))
        cells = [str(width), spread([1e3 * s for s in seconds["ours"]])]
        for variant in list(VARIANTS)[1:]:
            pairs = zip(seconds[variant], seconds["ours"], strict=True)
            cells.append(spread([theirs / ours for theirs, ours in pairs]))
        print("| " + " | ".join(cells) + " |", flush=True)


def spread(values: list[float]) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
