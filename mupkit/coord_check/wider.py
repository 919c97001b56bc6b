"""Whether wider models train better, as they do in µP at any learning rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from mupkit.coord_check.capture import Loss
from mupkit.coord_check.record import Build, MakeOptimizer, train_step
from mupkit.coord_check.statistics import mean_interval


@dataclass(frozen=True)
class Comparison:
    """Two neighbouring widths.

    Args:
        narrow, wide: their widths.
        difference: loss of the wide model minus that of the narrow one, mean over seeds.
        interval: its 95 % confidence interval, paired by seed.
    """

    narrow: int
    wide: int
    difference: float
    interval: tuple[float, float]

    @property
    def worse(self) -> bool:
        """Whether the wide model is worse beyond what seeds explain, also if it diverged."""
        return self.interval[0] > 0


@dataclass(frozen=True)
class Wider:
    """The outcome of `wider_is_better`.

    Args:
        losses: the final losses by width, one per seed.
        comparisons: one per pair of neighbouring widths.
    """

    losses: dict[int, list[float]]
    comparisons: list[Comparison]

    @property
    def passed(self) -> bool:
        """Whether no width is worse than the one before it."""
        return not self.failures

    @property
    def failures(self) -> list[Comparison]:
        """The pairs in which the wider model is worse."""
        return [c for c in self.comparisons if c.worse]

    def __str__(self) -> str:
        lines = [f"{'passed' if self.passed else 'fails'}: is wider better?"]
        for c in self.comparisons:
            low, high = c.interval
            lines.append(
                f"{c.narrow} -> {c.wide}: loss {c.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
                f"{'  worse' if c.worse else ''}"
            )
        return "\n".join(lines)


def wider_is_better(
    build: Build,
    widths: Iterable[int],
    *,
    make_optimizer: MakeOptimizer,
    loss: Loss,
    steps: int = 50,
    seeds: Iterable[int] = range(5),
) -> Wider:
    """Train each width for a while and compare the losses of neighbours.

    A pair fails if the whole 95 % interval of the paired difference is above 0: a one-sided t-test
    at 2.5 %. A pair that does not fail is no proof: few seeds may not show a difference.

    Args:
        build, make_optimizer, loss: as in `record`.
        widths: at least two.
        steps: number of training steps. The mean loss over the last tenth of them is compared.
        seeds: at least two.

    Raises:
        ValueError: for fewer than two widths or two seeds.

    Source: Tensor Programs V, Section 8, "Wider is better throughout training".
    """
    widths, seeds = sorted(set(widths)), list(dict.fromkeys(seeds))
    if len(widths) < 2 or len(seeds) < 2 or steps < 1:
        raise ValueError("wider_is_better needs at least two widths, two seeds and a step")
    losses = {
        width: [_final_loss(build, width, make_optimizer, loss, steps, seed) for seed in seeds]
        for width in widths
    }
    pairs = [(narrow, wide, losses[narrow], losses[wide]) for narrow, wide in pairwise(widths)]
    return Wider(losses, [_compare(*pair) for pair in pairs])


def _final_loss(
    build: Build, width: int, make_optimizer: MakeOptimizer, loss: Loss, steps: int, seed: int
) -> float:
    torch.manual_seed(seed)
    model = build(width)
    optimizer = make_optimizer(model)
    curve = [train_step(model, optimizer, loss).loss for _ in range(steps)]
    return fmean(curve[-max(1, steps // 10) :])


def _compare(
    narrow: int, wide: int, narrow_losses: Sequence[float], wide_losses: Sequence[float]
) -> Comparison:
    for losses, sign in ((wide_losses, 1), (narrow_losses, -1)):
        if not all(map(math.isfinite, losses)):  # diverged
            return Comparison(narrow, wide, sign * math.inf, (sign * math.inf, sign * math.inf))
    differences = [w - n for n, w in zip(narrow_losses, wide_losses, strict=True)]
    interval = mean_interval(differences)
    assert interval is not None
    return Comparison(narrow, wide, fmean(differences), interval)
