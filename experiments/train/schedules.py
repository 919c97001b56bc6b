"""Learning-rate schedules as factors of the master rate."""

from __future__ import annotations

import math

from experiments.declare.config import RunConfig


def lr_factor(schedule: str, step: int, steps: int, warmup: int = 0) -> float:
    """The factor at `step` (0 is the first) of `steps`; warm-up is linear over `warmup` steps."""
    if step < warmup:
        return (step + 1) / warmup
    done = step / steps
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - done
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "step_a":  # the paper's [5k, 8k] of 10k steps, by 0.1
            return 0.1 ** ((done >= 0.5) + (done >= 0.8))
        case "step_b":  # [4k, 7k] of 10k steps, by 0.3
            return 0.3 ** ((done >= 0.4) + (done >= 0.7))
        case "inv_sqrt":
            return float(max(1, warmup) ** 0.5 / max(1, step, warmup) ** 0.5)
        case _:
            raise ValueError(f"unknown schedule {schedule!r}")


def lr_factors(config: RunConfig) -> list[float]:
    """The factors of all steps of a run."""
    return [
        lr_factor(config.schedule, step, config.steps, config.warmup)
        for step in range(config.steps)
    ]
