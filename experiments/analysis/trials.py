"""Random search as independent trials: how good tuning is, how reliable, and for what compute.

A trial draws samples of hyperparameters, trains each and takes the one with the lowest validation
loss, its winner. Its outcome is the BLEU of the target model with the winner's hyperparameters.
Conventional tuning trains the samples at the target's size, µTransfer those of a small proxy.

All trials draw from one pool of trained samples, with replacement. So each sample's chance to win
is known exactly, and nothing is simulated: percentiles are those that sets of as many trials as the
paper's have in the median. Intervals come from a bootstrap over the pool.

docs/statistics.md says when they mislead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.analysis.transfer import CONFIDENCE
from experiments.declare.claims import Measured

NAME = {"mup": "µTransfer", "tuned": "conventional tuning", "naive": "naive transfer"}
TRIALS = 25
PERCENTILES = (25, 50, 75, 100)
RESAMPLES = 2000
UNTRAINED = 0.01  # of the trials may have a winner whose target was not trained


@dataclass(frozen=True)
class Pool:
    """The trained samples of a search.

    Attributes:
        losses: (N,), validation losses, infinity where the training diverged.
        outcomes: (N,), BLEU of the target with each sample's hyperparameters, mean over seeds;
            minus infinity where the target diverged, NaN where it was not trained.
        flops: of training one sample.
        flops_after: of what a trial does once after its search, such as training the target with
            the winner; 0 where the search has done that.
    """

    losses: np.ndarray
    outcomes: np.ndarray
    flops: float
    flops_after: float = 0.0

    def __post_init__(self) -> None:
        if self.losses.ndim != 1 or self.losses.shape != self.outcomes.shape:
            raise ValueError("a pool needs one loss and one outcome for each sample")
        if not len(self.losses) or np.isnan(self.losses).any():
            raise ValueError("a pool needs samples, and infinity as the loss of a diverged one")

    def affordable(self, budget: float) -> int:
        """Samples of a trial that costs at most `budget` FLOPs: at least 1, at most the pool."""
        fraction = (budget - self.flops_after) / self.flops
        return min(max(math.floor(fraction * (1 + 1e-9)), 1), len(self.losses))

    def compute(self, samples: int) -> float:
        """FLOPs of a trial."""
        return samples * self.flops + self.flops_after


def winning_chances(size: int, samples: int) -> np.ndarray:
    """Each sample's chance (N,) to win a trial, from the lowest loss to the highest.

    Args:
        size: N, of the pool.
        samples: of the trial, drawn with replacement.
    """
    behind = (np.arange(size, -1, -1) / size) ** samples  # all draws rank behind
    return np.asarray(behind[:-1] - behind[1:])


def contenders(losses: np.ndarray, samples: int) -> np.ndarray:
    """Indices of the samples whose targets have to be trained, the best first.

    Others win at most `UNTRAINED` of the trials, in the mean over the resamples of a bootstrap.
    Diverged samples are never among them.

    Args:
        losses: (N,), of the pool, infinity where the training diverged.
        samples: of a trial, the least number that is asked for; with more there are fewer
            contenders.
    """
    order = np.argsort(losses, kind="stable")[: np.isfinite(losses).sum()]
    chances = _mean_chances(len(losses), samples)[: len(order)]
    from_here_on = np.cumsum(chances[::-1])[::-1]
    return np.asarray(order[from_here_on > UNTRAINED])


def percentiles(
    pool: Pool, samples: int, at: Sequence[float] = PERCENTILES, trials: int = TRIALS
) -> np.ndarray:
    """Percentiles (len(at),) of the outcomes of some trials; minus infinity is a divergence.

    Of `trials` trials in order, percentile p is the one at place 1 + p/100 (trials - 1), rounded
    down: of 25 trials 25, 50, 75 and 100 are the 7th, 13th, 19th and 25th, of three 0, 50 and 100
    the worst, the median and the best. Over all sets of as many trials, the outcome at this place
    has a distribution of its own; what is returned is its median, exactly.

    Raises:
        ValueError: if a sample wins too often whose target was not trained.
    """
    whole = np.arange(len(pool.losses))[None]
    return np.asarray(_percentiles(pool, samples, at, trials, whole)[0])


@dataclass(frozen=True)
class Curve:
    """Percentiles of the outcomes against what a trial costs.

    Attributes:
        samples: (B,), of a trial.
        compute: (B,), of a trial, in units of a budget.
        low, median, high: (B,), 25th, 50th and 75th percentile; minus infinity is a divergence.
    """

    samples: np.ndarray
    compute: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def curve(pool: Pool, samples: Sequence[int], budget: float) -> Curve:
    """The outcomes of trials with some numbers of samples; compute is relative to `budget` FLOPs.

    Raises:
        ValueError: if a sample wins too often whose target was not trained.
    """
    quartiles = np.array([percentiles(pool, n, (25, 50, 75)) for n in samples]).T
    compute = np.array([pool.compute(n) / budget for n in samples])
    return Curve(np.array(samples), compute, *quartiles)


def least_gain(mup: Pool, tuned: Pool, budgets: Sequence[float]) -> Measured:
    """Median outcome of µTransfer minus that of conventional tuning, the least over the budgets.

    Args:
        mup, tuned: pools of µTransfer and of conventional tuning.
        budgets: FLOPs.

    Raises:
        ValueError: if a sample wins too often whose target was not trained.
    """
    counts = [(mup.affordable(budget), tuned.affordable(budget)) for budget in budgets]

    def least(at_mup: np.ndarray, at_tuned: np.ndarray) -> np.ndarray:
        gains = [_minus(_medians(mup, n, at_mup), _medians(tuned, m, at_tuned)) for n, m in counts]
        return np.asarray(np.min(gains, axis=0))

    highest = max(percentiles(tuned, m, (50,))[0] for _, m in counts)
    searches = [(("mup", mup, n), ("tuned", tuned, m)) for n, m in counts]
    picks = _minus(_known(tuned), highest).tolist()
    return _measured(least, (mup, tuned), _note([s for pair in searches for s in pair]), picks)


def spread_difference(mup: Pool, tuned: Pool, budget: float, trials: int = TRIALS) -> Measured:
    """Spread of µTransfer's outcomes at a budget minus that of conventional tuning's.

    The spread is that of the best trial over the 25th percentile, of `trials` trials.

    Args:
        mup, tuned: pools of µTransfer and of conventional tuning.
        budget: FLOPs.
        trials: in a set.

    Raises:
        ValueError: if a sample wins too often whose target was not trained.
    """
    n, m = mup.affordable(budget), tuned.affordable(budget)

    def spread(pool: Pool, samples: int, index: np.ndarray) -> np.ndarray:
        low, best = _percentiles(pool, samples, (25, 100), trials, index).T
        return _minus(best, low)

    return _measured(
        lambda at_mup, at_tuned: _minus(spread(mup, n, at_mup), spread(tuned, m, at_tuned)),
        (mup, tuned),
        _note([("mup", mup, n), ("tuned", tuned, m)]),
    )


def naive_shortfall(naive: Pool, mup: Pool, tuned: Pool, budget: float) -> Measured:
    """Median outcome of naive transfer at a budget minus the lower one of the two other methods.

    Args:
        naive, mup, tuned: pools of naive transfer, µTransfer and conventional tuning.
        budget: FLOPs.

    Raises:
        ValueError: if a sample wins too often whose target was not trained.
    """
    pools = (naive, mup, tuned)
    counts = [pool.affordable(budget) for pool in pools]

    def shortfall(*indices: np.ndarray) -> np.ndarray:
        naive_at, *others = map(_medians, pools, counts, indices)
        return _minus(naive_at, np.min(others, axis=0))

    lower = min(percentiles(p, n, (50,))[0] for p, n in zip(pools[1:], counts[1:], strict=True))
    note = _note(list(zip(("naive", "mup", "tuned"), pools, counts, strict=True)))
    return _measured(shortfall, pools, note, _minus(_known(tuned), lower).tolist())


def gap_change(mup: Pool, tuned: Pool, fewest: int, most: int) -> Measured:
    """How the gap between the methods changes from the fewest to the most samples of a trial.

    The gap is the median outcome of conventional tuning minus that of µTransfer, both with the same
    number of samples; below 0 it shrinks with more samples.

    Args:
        mup, tuned: pools of µTransfer and of conventional tuning.
        fewest, most: samples.

    Raises:
        ValueError: if a sample wins too often whose target was not trained.
    """

    def change(at_mup: np.ndarray, at_tuned: np.ndarray) -> np.ndarray:
        first, last = (
            _minus(_medians(tuned, n, at_tuned), _medians(mup, n, at_mup)) for n in (fewest, most)
        )
        return _minus(last, first)

    searches = [(n, p, k) for k in (fewest, most) for n, p in (("mup", mup), ("tuned", tuned))]
    return _measured(change, (mup, tuned), _note(searches))


def _mean_chances(size: int, samples: int) -> np.ndarray:
    """Chances to win (N,) in the mean over the resamples of a bootstrap, by rank.

    How many of a resample's N rank behind a given place is binomial.
    """
    count, share = np.arange(size + 1), np.arange(size, -1, -1) / size
    behind = stats.binom.pmf(count, size, share[:, None]) @ (count / size) ** samples
    return np.asarray(behind[:-1] - behind[1:])


def _known(pool: Pool) -> np.ndarray:
    """Outcomes (N,), minus infinity where the sample itself diverged."""
    return np.where(np.isinf(pool.losses), -np.inf, pool.outcomes)


def _untrained(pool: Pool, samples: int) -> float:
    """The share of the trials whose winner's target was not trained, in the mean over resamples.

    Raises:
        ValueError: if it is too large; it names the best of these samples.
    """
    order = np.argsort(pool.losses, kind="stable")
    missing = np.isnan(_known(pool)[order])
    if not missing.any():
        return 0.0
    share = float(_mean_chances(len(order), samples)[missing].sum())
    if share > UNTRAINED + 1e-9:
        raise ValueError(
            f"sample {order[missing.argmax()]} may win a trial of {samples} samples, "
            "but the target was not trained with its hyperparameters"
        )
    return share


def _percentiles(
    pool: Pool, samples: int, at: Sequence[float], trials: int, index: np.ndarray
) -> np.ndarray:
    """Percentiles (B, len(at)) for resamples of the pool, from their indices (B, N).

    What untrained winners would have given is left out: the other chances are scaled up. NaN where
    no other has a chance.
    """
    _untrained(pool, samples)
    places = np.array([1 + math.floor(p / 100 * (trials - 1) + 1e-9) for p in at])
    levels = stats.beta.median(places, trials + 1 - places)
    order = np.argsort(pool.losses, kind="stable")
    outcomes = _known(pool)[order][np.sort(index, axis=1)]  # any N indices may be taken for ranks
    chances = np.where(np.isnan(outcomes), 0.0, winning_chances(len(order), samples))
    rising = np.argsort(outcomes, axis=1)
    outcomes, chances = (np.take_along_axis(x, rising, axis=1) for x in (outcomes, chances))
    below = np.cumsum(chances, axis=1)
    reached = below[:, None] >= levels[:, None] * below[:, None, -1:] * (1 - 1e-12)
    return np.take_along_axis(outcomes, reached.argmax(axis=2), axis=1)


def _medians(pool: Pool, samples: int, index: np.ndarray) -> np.ndarray:
    return _percentiles(pool, samples, (50,), TRIALS, index)[:, 0]


def _minus(left: np.ndarray, right: np.ndarray | float) -> np.ndarray:
    """The difference; NaN where both are infinite, as if both diverged."""
    with np.errstate(invalid="ignore"):
        return left - right


def _measured(
    statistic: Callable[..., np.ndarray],
    pools: Sequence[Pool],
    note: str,
    picks: Sequence[float] = (),
) -> Measured:
    """A statistic of the pools with its bootstrap interval, as far as there are two samples.

    Args:
        statistic: from indices of resamples (B, N), an array for each pool, to values (B,).
    """
    sizes = [len(pool.losses) for pool in pools]
    value = float(statistic(*(np.arange(size)[None] for size in sizes))[0])
    if min(sizes) < 2:
        return Measured(value, note=f"{note}; no interval: one sample", picks=picks)
    draws = np.random.default_rng(0)
    values = statistic(*(draws.integers(size, size=(RESAMPLES, size)) for size in sizes))
    return Measured(value, *_interval(values), note, picks)


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The percentile interval of resamples (B,); one without a value may have had any."""
    unknown, tail = np.isnan(values), int((1 - CONFIDENCE) / 2 * len(values))
    low = np.sort(np.where(unknown, -np.inf, values))[tail]
    high = np.sort(np.where(unknown, np.inf, values))[-1 - tail]
    return float(low), float(high)


def _note(searches: Sequence[tuple[str, Pool, int]]) -> str:
    """The median of each search, its samples and its pool, and the share of unknown outcomes."""
    parts = []
    for name, pool, samples in searches:
        median = percentiles(pool, samples, (50,))[0]
        text = f"{median:.2f}" if np.isfinite(median) else "diverged"
        parts.append(f"{NAME[name]} {text} ({samples} of {len(pool.losses)} samples)")
    unknown = max(_untrained(pool, samples) for _, pool, samples in searches)
    left_out = f"; left out, as untrained: {unknown:.1%} of the trials at most" if unknown else ""
    return f"medians: {', '.join(parts)}{left_out}"
