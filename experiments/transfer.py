"""Transfer statistics: where the optimum is, how it moves with width, what a transfer costs.

All functions take the losses of a sweep as an array (seeds S, widths W, rates R); a diverged run
is infinity. Runs of one seed are paired, so intervals come from a bootstrap over whole seeds; with
few seeds they are rough, and one seed has none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

CONFIDENCE = 0.95
MAX_EXACT_RESAMPLES = 4000


@dataclass(frozen=True)
class Landscape:
    """The losses of one parametrization.

    Attributes:
        losses: (S, W, R), nats, infinity where a run diverged.
        widths: (W,), ascending.
        log2lr: (R,), ascending.
    """

    losses: np.ndarray
    widths: np.ndarray
    log2lr: np.ndarray


def landscape(runs: pd.DataFrame, parametrization: str) -> Landscape:
    """The landscape of one parametrization from a tidy table of runs.

    Raises:
        ValueError: if the table is not a full grid of seeds, widths and rates.
    """
    part = runs[runs["parametrization"] == parametrization]
    loss = part["final_loss"].where(~part["diverged"], np.inf)
    table = loss.groupby([part["seed"], part["width"], part["log2lr"]]).agg(["mean", "size"])
    levels = [np.unique(part[key]) for key in ("seed", "width", "log2lr")]
    if len(table) != np.prod([len(v) for v in levels]) or (table["size"] != 1).any():
        raise ValueError(f"{parametrization}: not one run for each seed, width and rate")
    losses = table["mean"].to_numpy().reshape([len(v) for v in levels])
    return Landscape(losses, levels[1], levels[2].astype(float))


def grid_optimum(mean_loss: np.ndarray) -> np.ndarray:
    """Index of the best rate for each width, from mean losses (W, R)."""
    return np.argmin(mean_loss, axis=1)


def fitted_optimum(log2lr: np.ndarray, mean_loss: np.ndarray) -> float:
    """The minimum of the parabola through the best grid point and its neighbours.

    Args:
        log2lr: (R,) ascending, evenly spaced.
        mean_loss: (R,) of one width.

    Returns:
        log2 of the rate; NaN if the best grid point is at the edge of the grid, where the true
        optimum may lie outside. Next to a diverged neighbour, the grid point itself.
    """
    best = int(np.argmin(mean_loss))
    if best in (0, len(mean_loss) - 1):
        return float("nan")
    left, middle, right = mean_loss[best - 1 : best + 2]
    curvature = left - 2 * middle + right
    if not np.isfinite(curvature) or curvature <= 0:
        return float(log2lr[best])
    shift = 0.5 * (left - right) / curvature
    return float(log2lr[best] + shift * (log2lr[best + 1] - log2lr[best]))


def drift_per_doubling(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """Least-squares slope of the fitted optimum against log2 width; NaN if one is at an edge."""
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    optima = [fitted_optimum(scape.log2lr, row) for row in mean]
    if not np.all(np.isfinite(optima)):
        return float("nan")
    return float(np.polyfit(np.log2(scape.widths), optima, 1)[0])


def regret(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """Loss of the widest model at the narrowest model's best rate, minus its own best (nats)."""
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    return float(mean[-1, np.argmin(mean[0])] - mean[-1].min())


def best_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Best loss of the widest model in `left` minus that in `right`, each (S, W, R), in nats."""
    return float(left.mean(axis=0)[-1].min() - right.mean(axis=0)[-1].min())


def bootstrap(statistic: Callable[[np.ndarray], float], seeds: int) -> tuple[float, float] | None:
    """Percentile interval of a statistic of seed indices; None with fewer than two seeds.

    Every resample is taken once where there are few enough, otherwise 2,000 random ones.
    """
    if seeds < 2:
        return None
    if seeds**seeds <= MAX_EXACT_RESAMPLES:
        resamples = np.array(list(itertools.product(range(seeds), repeat=seeds)))
    else:
        resamples = np.random.default_rng(0).integers(seeds, size=(2000, seeds))
    values = np.array([statistic(index) for index in resamples])
    if not np.all(np.isfinite(values)):
        return None
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def worst_widening(scape: Landscape, up_to: int) -> float:
    """How much the worst step to the next width exceeds what seed noise allows; holds up to 1.

    For each rate up to index `up_to` and each pair of neighbouring widths, the mean over seeds of
    loss(wider) - loss(narrower); the largest, divided by the one-sided Bonferroni bound of a
    t-test with the variance pooled over all cells. Negative if wider is better everywhere.
    Needs two seeds; NaN with one.
    """
    seeds = scape.losses.shape[0]
    if seeds < 2:
        return float("nan")
    difference = np.diff(scape.losses, axis=1)[:, :, : up_to + 1].reshape(seeds, -1)
    cells = difference.shape[1]
    if not np.all(np.isfinite(difference)):
        return float("inf")
    pooled = np.sqrt(difference.var(axis=0, ddof=1).mean() / seeds)
    allowed = stats.t.ppf(1 - (1 - CONFIDENCE) / cells, cells * (seeds - 1)) * pooled
    return float(difference.mean(axis=0).max() / allowed)
