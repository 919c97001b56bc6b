"""Runs trained together beside the same runs alone: their time, and how far their losses differ.

    python benchmarks/stacked.py                  # three families on one core; about ten minutes
    python benchmarks/stacked.py --families mlp_cifar10 --widths 64 --members 16

The members differ in rate, seed and parametrization. Both ways train them in one process with one
thread, in turn, for two rounds; the ratio is of processor time, stacked over alone. The differences
are of final losses, relative: the largest and the median over the members. Beside them is the
largest difference to the same run alone whose initial weights were changed in their last bit, which
says how much of it is rounding that a training lets grow, and the median difference between two
seeds of a member, which says how much of it matters.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
os.environ["OMP_NUM_THREADS"] = "1"
STEPS = {"mlp_cifar10": 781, "transformer_wikitext2": 250, "resnet_cifar10": 60}
WIDTHS = {"mlp_cifar10": (64, 256), "transformer_wikitext2": (32,), "resnet_cifar10": (8,)}
CENTRES = {"mlp_cifar10": -8.0, "transformer_wikitext2": -8.0, "resnet_cifar10": -3.0}
ROUNDS = 2


def runs(name: str, width: int, members: int, steps: int) -> list[Any]:
    """Members: two seeds of each rate, in both parametrizations."""
    from experiments.declare import registry

    family = registry.family(name)
    typical = {**family.example, "data": family.resolve_data(None)}
    base = family.config.of_example({**typical, "width": width, "steps": steps}, {})
    return [
        base.replace(
            seed=i % 2,
            parametrization="mup" if i // 2 % 2 else "sp",
            log2lr=CENTRES[name] - 0.5 * (i // 4),
        )
        for i in range(members)
    ]


def compare(name: str, width: int, members: int, steps: int) -> list[str]:
    """The cells of a row."""
    from experiments.declare.references import load
    from experiments.train import engine, process, stacked

    machine = process.set_up()
    chosen = runs(name, width, members, steps)
    tasks = [load(run.task, name)(run) for run in chosen]
    ratios, together = [], {}
    for _ in range(ROUNDS):
        start = time.process_time()
        alone = [engine.train(run, task, machine) for run, task in zip(chosen, tasks, strict=True)]
        between = time.process_time()
        stack = [
            stacked.make_member(run, task, machine) for run, task in zip(chosen, tasks, strict=True)
        ]
        stacked.train_stacked(
            stack, machine, lambda member, result: together.update({member.config.id: result})
        )
        ratios.append((time.process_time() - between) / (between - start))
    nudged = [
        engine.train(run, _Nudged(task), machine) for run, task in zip(chosen, tasks, strict=True)
    ]
    bits = [
        abs(a.final_loss - b.final_loss) / a.final_loss for a, b in zip(alone, nudged, strict=True)
    ]
    finals = [(a.final_loss, together[r.id].final_loss) for r, a in zip(chosen, alone, strict=True)]
    apart = [abs(a - b) / a for a, b in finals if a == a]
    seeds = [abs(x[0] - y[0]) / x[0] for x, y in zip(finals[::2], finals[1::2], strict=True)]
    numbers = (
        max(apart),
        statistics.median(apart),
        max(b for b in bits if b == b),
        statistics.median(s for s in seeds if s == s),
    )
    ratio = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return [name, str(width), str(members), str(steps), ratio, *(f"{n:.1e}" for n in numbers)]


class _Nudged:
    """A task whose models begin with half of their weights larger by the last bit."""

    def __init__(self, task: Any):
        self.task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def build(self) -> Any:
        import torch

        model, generator = self.task.build(), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 2.0**-23 * (torch.rand(p.shape, generator=generator) < 0.5))
        return model


def main() -> None:
    """Measure and print the table as Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=[*STEPS], choices=[*STEPS])
    parser.add_argument("--widths", type=int, nargs="+", help="of all families")
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--steps", type=int, help="of all families")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    head = ["family", "width", "members", "steps", "stacked over alone", "largest difference"]
    head += ["median", "after a last bit", "between seeds"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for name in arguments.families:
        for width in arguments.widths or WIDTHS[name]:
            cells = compare(name, width, arguments.members, arguments.steps or STEPS[name])
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
