"""Transfer statistics: where the optimum is, how it moves with size, what a transfer costs.

All functions take the losses of a sweep as an array (seeds S, sizes W, values R). The sizes are
widths, or another dimension that is scaled (depth, batch size); the values are those of a
hyperparameter, mostly the learning rate. The loss of a diverged run is infinity. Runs of one seed
are paired, so intervals come from a bootstrap over whole seeds; with few seeds they are rough, and
one seed has none.

docs/statistics.md says when they mislead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

CONFIDENCE = 0.95
MAX_EXACT_RESAMPLES = 4000


@dataclass(frozen=True)
class Landscape:
    """The losses of one parametrization.

    Attributes:
        losses: (S, W, R), nats, infinity where a run diverged.
        sizes: (W,), ascending: widths, or another dimension that is scaled.
        grid: (R,), ascending: log2 of the learning rate, or another hyperparameter's place.
        lost_at: (S, W, R), the step at which a run diverged, NaN where none did; None if unknown.
    """

    losses: np.ndarray
    sizes: np.ndarray
    grid: np.ndarray
    lost_at: np.ndarray | None = None


def landscape(
    runs: pd.DataFrame,
    parametrization: str,
    key: str = "log2lr",
    along: str = "width",
    place: Callable[[Any], float] | None = None,
) -> Landscape:
    """The landscape of one parametrization from a tidy table of runs.

    Args:
        runs: with columns parametrization, seed, final_loss, diverged, `along` and `key`.
        parametrization: of the runs that count.
        key: column of the hyperparameter.
        along: column of the dimension that is scaled.
        place: where a value of the hyperparameter stands on its axis; by default its base-2
            logarithm, or the value itself if the key begins with log2.

    Raises:
        ValueError: if the table is not a full grid of seeds, sizes and values, or if a run without
            a loss is not marked as diverged.
    """
    part = runs[runs["parametrization"] == parametrization]
    places = part[key].map(place or (float if key.startswith("log2") else math.log2))
    loss = part["final_loss"].where(~part["diverged"], np.inf)
    table = loss.groupby([part["seed"], part[along], places]).agg(["mean", "size"])
    levels = [np.unique(column) for column in (part["seed"], part[along], places)]
    if part.empty or len(table) != np.prod([len(v) for v in levels]) or (table["size"] != 1).any():
        raise ValueError(f"{parametrization}: not one run for each seed, {along} and {key}")
    shape = [len(v) for v in levels]
    losses = table["mean"].to_numpy().reshape(shape)
    if np.isnan(losses).any():
        raise ValueError(f"{parametrization}: a run has no loss and did not diverge")
    steps = None
    if "diverged_step" in part:
        by = [part["seed"], part[along], places]
        steps = part["diverged_step"].astype(float).groupby(by).mean().to_numpy().reshape(shape)
    return Landscape(losses, levels[1], levels[2].astype(float), steps)


def grid_optimum(mean_loss: np.ndarray) -> np.ndarray:
    """Index of the best value for each size, from mean losses (W, R).

    It means nothing for a size that diverged at every value; see `diverged_sizes`.
    """
    best: np.ndarray = np.argmin(mean_loss, axis=1)
    return best


def diverged_sizes(mean_loss: np.ndarray) -> np.ndarray:
    """Which sizes (W,) diverged at every value and have no optimum, from mean losses (W, R)."""
    lost: np.ndarray = np.isinf(mean_loss).all(axis=1)
    return lost


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
    return float(np.polyfit(np.log2(scape.sizes), optima, 1)[0])


def regret(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """Loss of the widest model at the narrowest model's best rate, minus its own best (nats).

    Infinity if the widest model diverged at that rate; NaN if either model diverged at every rate.
    """
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    if diverged_sizes(mean[[0, -1]]).any():
        return float("nan")
    return float(mean[-1, np.argmin(mean[0])] - mean[-1].min())


Statistic = Callable[[Landscape, np.ndarray | None], float]


def roughness(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """How much curves go up and down beside their one valley, mean over seeds and sizes (nats).

    The total variation of a curve less that of a single valley between the same ends with the same
    minimum: 0 for a curve that falls to its minimum and rises from there. Diverged values are left
    out. NaN if a curve has no value.
    """
    curves = (scape.losses if losses is None else losses).reshape(-1, len(scape.grid))
    excess = []
    for curve in curves:
        known = curve[np.isfinite(curve)]
        if not len(known):
            return float("nan")
        valley = known[0] + known[-1] - 2 * known.min()
        excess.append(float(np.abs(np.diff(known)).sum() - valley))
    return float(np.mean(excess))


def pick_regrets(scape: Landscape) -> np.ndarray:
    """The regret of each value of the grid (R,), as if it had been picked without the proxy."""
    mean = scape.losses.mean(axis=0)[-1]
    if np.isinf(mean).all():
        return np.full(len(mean), np.nan)
    return np.asarray(mean - mean.min())


def kept_gain(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """The share of the largest model's gain that the smallest model's best value keeps.

    (best of the smallest - the largest at the smallest's best value) / (best of the smallest - best
    of the largest): 1 is perfect transfer; below 0 the largest model is worse than the smallest
    one. Minus infinity if the largest model diverged at that value. NaN if the largest model is no
    better than the smallest one, so that there is no gain to keep, and if either of them diverged
    at every value.
    """
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    return float(_kept(mean, mean[-1, np.argmin(mean[0])]))


def pick_kept_gains(scape: Landscape) -> np.ndarray:
    """The kept gain of each value of the grid (R,), as if it had been picked without the proxy."""
    mean = scape.losses.mean(axis=0)
    return np.asarray(_kept(mean, mean[-1]))


def _kept(mean: np.ndarray, at: Any) -> Any:
    small, large = mean[0].min(), mean[-1].min()
    if diverged_sizes(mean[[0, -1]]).any() or large >= small:
        return np.full_like(at, np.nan)
    return (small - at) / (small - large)


BLIND = 4000  # guesses


def blind_optima(scape: Landscape, seed: int = 0) -> np.ndarray:
    """Indices of the grid (N, W) at which the optima of all sizes might lie, drawn at random."""
    shape = BLIND, len(scape.sizes)
    return np.random.default_rng(seed).integers(len(scape.grid), size=shape)


def rank_correlation(scape: Landscape, losses: np.ndarray | None = None) -> float:
    """Spearman's correlation of the smallest model's losses over the grid with the largest's.

    1 if the proxy puts all values in the order that the target does, however far apart they lie.
    Diverged runs rank last, as equals. NaN with fewer than three values, and if all losses of
    either model are equal.
    """
    from scipy.stats import rankdata  # half a second, which most drawings need not take

    mean = (scape.losses if losses is None else losses).mean(axis=0)
    ranks = [rankdata(mean[i]) for i in (0, -1)]
    if len(scape.grid) < 3 or min(np.ptp(rank) for rank in ranks) == 0:
        return float("nan")
    return float(np.corrcoef(*ranks)[0, 1])


def best_difference(left: np.ndarray, right: np.ndarray) -> float:
    """Best loss of the widest model in `left` minus that in `right`, each (S, W, R), in nats.

    Infinity, with its sign, if one of them diverged at every rate; NaN if both did.
    """
    best_left, best_right = (float(x.mean(axis=0)[-1].min()) for x in (left, right))
    return best_left - best_right  # of Python floats: inf - inf is NaN without a warning


def bootstrap(statistic: Callable[[np.ndarray], float], seeds: int) -> tuple[float, float] | None:
    """Percentile interval of a statistic of seed indices.

    It takes every resample once where there are few enough, otherwise 2,000 random ones. Its
    nominal level is 95 %, but with few seeds it is far too narrow, as percentile intervals are.

    Args:
        statistic: of the indices of a resample (S,), dtype int.
        seeds: how many there are.

    Returns:
        The two ends; None with fewer than two seeds, and if a resample has no value (NaN). If one
        is infinite, as where a run diverged, the range of all resamples.
    """
    if seeds < 2:
        return None
    if seeds**seeds <= MAX_EXACT_RESAMPLES:
        resamples = np.array(list(itertools.product(range(seeds), repeat=seeds)))
    else:
        resamples = np.random.default_rng(0).integers(seeds, size=(2000, seeds))
    values = np.array([statistic(index) for index in resamples])
    if np.isnan(values).any():
        return None
    if np.isinf(values).any():
        return float(values.min()), float(values.max())
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def worst_widening(scape: Landscape, up_to: int) -> float:
    """The worst step to the next width, divided by what seed noise allows: noise explains up to 1.

    A step is the mean over seeds of loss(wider) - loss(narrower), for a pair of neighbouring widths
    and a rate up to index `up_to`. Noise allows the one-sided Bonferroni bound of a t-test with the
    variance pooled over all cells. Negative if wider is better everywhere.

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
    allowed = stdtrit(cells * (seeds - 1), 1 - (1 - CONFIDENCE) / cells) * pooled
    return float(worst / allowed)


UNSTABLE = 0.5  # nats above a curve's best


def onset(scape: Landscape, losses: np.ndarray | None = None) -> np.ndarray:
    """The lowest value of the grid, past the best, at which training is unstable, by size (W,).

    Training is unstable where a run diverged, or where the mean loss is more than half a nat above
    the size's best. NaN where the grid has no such value, and where a size diverged at every value.
    """
    mean = (scape.losses if losses is None else losses).mean(axis=0)
    found = np.full(len(scape.sizes), np.nan)
    for i, row in enumerate(mean):
        best = int(np.argmin(row))
        beyond = np.flatnonzero(row[best:] > row[best] + UNSTABLE)
        if np.isfinite(row[best]) and len(beyond):
            found[i] = scape.grid[best + beyond[0]]
    return found


def order_violated(curves: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Where in the training a model is worse than the next narrower one beyond seed noise.

    Args:
        curves: losses (S, W, T) of seeds, widths and times; runs of a seed are paired.
        allowed: what seed noise allows at each time (T,); `noise_bound` of the curves if None.

    Returns:
        (T,) of bool. A diverged model's losses are infinity, and it is worse than any other.
    """
    bound = noise_bound(curves) if allowed is None else allowed
    worse = np.full(curves.shape[2], False)
    mean = curves.mean(axis=0)
    for narrow, wide in itertools.pairwise(mean):
        finite = np.isfinite(narrow)
        worse |= finite & (np.isinf(wide) | (wide - np.where(finite, narrow, 0.0) > bound))
    return worse


def noise_bound(curves: np.ndarray) -> np.ndarray:
    """The apparent cost of a widening that seed noise allows by time (T,), from losses (S, W, T).

    The one-sided Bonferroni bound of a t-test over the pairs of neighbouring widths, with the
    variance of their paired differences pooled. Pairs with a diverged run are left out; infinity
    where none is left, and with fewer than two seeds.
    """
    seeds, widths, _ = curves.shape
    with np.errstate(invalid="ignore"):
        difference = np.diff(curves, axis=1)
    if seeds < 2 or widths < 2:
        return np.full(curves.shape[2], np.inf)
    known = np.isfinite(difference).all(axis=0)  # (W - 1, T)
    pairs = known.sum(axis=0)
    variance = np.where(known, np.where(known, difference, 0.0).var(axis=0, ddof=1), 0.0)
    pooled = np.sqrt(variance.sum(axis=0) / np.maximum(pairs, 1) / seeds)
    quantile = stdtrit(np.maximum(pairs, 1) * (seeds - 1), 1 - (1 - CONFIDENCE) / (widths - 1))
    return np.where(pairs > 0, quantile * pooled, np.inf)
