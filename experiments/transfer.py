"""Transfer statistics: where the optimum is, how it moves with width, what a transfer costs.

All functions take the losses of a sweep as an array (seeds S, widths W, rates R); a diverged run
is infinity. Runs of one seed are paired, so intervals come from a bootstrap over whole seeds; with
few seeds they are rough, and one seed has none.
"""

from __future__ import annotations

import itertools
import math
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
        grid: (R,), ascending: log2 of the learning rate, or of another hyperparameter.
    """

    losses: np.ndarray
    widths: np.ndarray
    grid: np.ndarray


def landscape(runs: pd.DataFrame, parametrization: str, key: str = "log2lr") -> Landscape:
    """The landscape of one parametrization from a tidy table of runs.

    Args:
        runs: with columns parametrization, seed, width, final_loss, diverged and `key`.
        parametrization: whose runs.
        key: column of the hyperparameter, as a logarithm if its name begins with log2.

    Raises:
        ValueError: if the table is not a full grid of seeds, widths and rates, or if a run without
            a loss is not marked as diverged.
    """
    part = runs[runs["parametrization"] == parametrization]
    loss = part["final_loss"].where(~part["diverged"], np.inf)
    table = loss.groupby([part["seed"], part["width"], part[key]]).agg(["mean", "size"])
    levels = [np.unique(part[column]) for column in ("seed", "width", key)]
    if part.empty or len(table) != np.prod([len(v) for v in levels]) or (table["size"] != 1).any():
        raise ValueError(f"{parametrization}: not one run for each seed, width and rate")
    losses = table["mean"].to_numpy().reshape([len(v) for v in levels])
    if np.isnan(losses).any():
        raise ValueError(f"{parametrization}: a run has no loss and did not diverge")
    values = levels[2].astype(float)
    return Landscape(losses, levels[1], values if key.startswith("log2") else np.log2(values))


def grid_optimum(mean_loss: np.ndarray) -> np.ndarray:
    """Index of the best rate for each width, from mean losses (W, R).

    It means nothing for a width that diverged at every rate; see `diverged_widths`.
    """
    return np.argmin(mean_loss, axis=1)


def diverged_widths(mean_loss: np.ndarray) -> np.ndarray:
    """Which widths (W,) diverged at every rate and have no optimum, from mean losses (W, R)."""
    return np.isinf(mean_loss).all(axis=1)


def fitted_optimum(log2lr: np.ndarray, mean_loss: np.ndarray) -> float:
    """The minimum of the parabola through the best grid point and its neighbours.

    Args:
        log2lr: (R,) ascending, evenly spaced.
        mean_loss: (R,) of one width.

    Returns:
        log2 of the rate; NaN if the best grid point is at the edge of the grid, where the true
        optimum may lie outside, or if every rate diverged. Next to a diverged neighbour, the grid
        point itself.
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
    """Least-squares slope of the fitted optimum against log2 width.

    NaN if an optimum is at the edge of the grid, if a width diverged at every rate, and with fewer
    than two widths.
    """
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    optima = [fitted_optimum(scape.grid, row) for row in mean]
    if len(optima) < 2 or not np.all(np.isfinite(optima)):
        return float("nan")
    return float(np.polyfit(np.log2(scape.widths), optima, 1)[0])


def regret(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """Loss of the widest model at the narrowest model's best rate, minus its own best (nats).

    Infinity if the widest model diverged at that rate; NaN if either model diverged at every rate.
    """
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    if diverged_widths(mean[[0, -1]]).any():
        return float("nan")
    return float(mean[-1, np.argmin(mean[0])] - mean[-1].min())


def best_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Best loss of the widest model in `left` minus that in `right`, each (S, W, R), in nats.

    Infinity, with its sign, if one of them diverged at every rate; NaN if both did.
    """
    best_left, best_right = (float(x.mean(axis=0)[-1].min()) for x in (left, right))
    return best_left - best_right  # of Python floats: inf - inf is NaN without a warning


def bootstrap(statistic: Callable[[np.ndarray], float], seeds: int) -> tuple[float, float] | None:
    """Percentile interval of a statistic of seed indices.

    None with fewer than two seeds, and if the statistic of a resample is not finite. Nominally of
    95 %, but far too narrow with few seeds, as percentile intervals are.

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

    The test takes the noise to be equal in all cells: where it grows with the rate, false alarms
    are more frequent, and one unstable cell loosens the bound for the others.

    NaN with fewer than two seeds or two widths. Infinity if a run diverged at one of these rates.
    Without any seed noise nothing is allowed: infinity with the sign of the worst step, or 0.
    """
    losses = scape.losses[:, :, : up_to + 1]
    seeds, widths, rates = losses.shape
    if seeds < 2 or widths < 2:
        return float("nan")
    if not np.all(np.isfinite(losses)):
        return float("inf")
    cells = (widths - 1) * rates
    difference = np.diff(losses, axis=1).reshape(seeds, cells)
    worst = float(difference.mean(axis=0).max())
    pooled = np.sqrt(difference.var(axis=0, ddof=1).mean() / seeds)
    if pooled == 0:
        return math.copysign(math.inf, worst) if worst else 0.0
    allowed = stats.t.ppf(1 - (1 - CONFIDENCE) / cells, cells * (seeds - 1)) * pooled
    return float(worst / allowed)
