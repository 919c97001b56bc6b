"""How much each hyperparameter of a random search matters: functional analysis of variance.

Pure functions of arrays; docs/statistics.md says when they mislead.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

TREES = 64
GRID = 24  # values of a hyperparameter at which its marginal is taken


def main_effects(points: np.ndarray, losses: np.ndarray, seed: int = 0) -> np.ndarray:
    """The share of the variance that each hyperparameter explains by itself (K,).

    A random forest learns the ranks of the losses from the points. A hyperparameter's marginal is
    the forest's mean over all other ones; its variance, divided by that of the forest's
    predictions, is the main effect. The rest belongs to several hyperparameters together.

    Args:
        points: (N, K), each hyperparameter on the axis on which it was drawn uniformly.
        losses: (N,), infinity for a sample that diverged: all these rank last, as equals.
        seed: of the forest.

    Source: Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter
    Importance", ICML 2014.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import partial_dependence

    ranks = stats.rankdata(losses)
    forest = RandomForestRegressor(TREES, min_samples_leaf=3, random_state=seed).fit(points, ranks)
    total = forest.predict(points).var()
    if total == 0:
        return np.zeros(points.shape[1])
    effects = [
        partial_dependence(
            forest, points, [k], grid_resolution=GRID, percentiles=(0, 1), method="recursion"
        )["average"].var()
        for k in range(points.shape[1])
    ]
    return np.asarray(effects / total)
