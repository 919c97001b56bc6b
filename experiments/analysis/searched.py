"""A search at a narrow width and its winner at a wide one: runs, table, claims.

Tidy tables hold the narrow and the wide runs; both are judged by their accuracy on held-out images,
which is 0 for a run that diverged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.analysis import landscapes
from experiments.declare.claims import Measured
from experiments.declare.config import RunConfig
from experiments.errors import UserError

METRIC = "valid_accuracy"
NAME = {"sp": "SP", "mup": "µP"}


def winner(table: pd.DataFrame, parametrization: str, keys: Sequence[str]) -> pd.Series:
    """The best narrow point of a parametrization: its values by key, and its mean accuracy.

    Where the parametrizations are equal at the narrow width, only one may have been searched.

    Raises:
        UserError: if every narrow run diverged.
    """
    narrow = table[table["width"] == table["width"].min()]
    own = narrow[narrow["parametrization"] == parametrization]
    part = own if len(own) else narrow
    if part["diverged"].all():
        raise UserError("every run of the search diverged; fix its space in spec.py")
    part = part.assign(**{METRIC: part[METRIC].where(~part["diverged"], 0.0)})
    means = part.groupby(list(keys), sort=True)[METRIC].mean().reset_index()
    best: pd.Series = means.loc[means[METRIC].idxmax()]
    return best


def carried(
    runs: Sequence[RunConfig], table: pd.DataFrame, keys: Sequence[str], width: int, seeds: int
) -> list[RunConfig]:
    """The winner of each parametrization at another width, with several seeds."""
    chosen = []
    for parametrization in NAME:
        best = winner(table, parametrization, keys)
        point = {key: float(best[key]) for key in keys}
        chosen += [
            runs[0].replace(**point, parametrization=parametrization, width=width, seed=seed)
            for seed in range(seeds)
        ]
    return chosen


def wide_accuracy(table: pd.DataFrame, parametrization: str) -> np.ndarray:
    """Accuracies (S,) of the carried runs, by seed."""
    wide = table[table["width"] == table["width"].max()]
    part = wide[wide["parametrization"] == parametrization].sort_values("seed")
    accuracies: np.ndarray = part[METRIC].where(~part["diverged"], 0.0).to_numpy()
    return accuracies


def percent(values: np.ndarray) -> str:
    """Mean and standard error over seeds: "94.86 ± 0.07 %"."""
    mean = f"{100 * values.mean():.2f}"
    if len(values) < 2:
        return f"{mean} %"
    return f"{mean} ± {100 * values.std(ddof=1) / len(values) ** 0.5:.2f} %"


def mup_above_sp(runs: pd.DataFrame) -> Measured:
    """Accuracy of the wide µP model minus that of SP, in percentage points."""
    mup, sp = (wide_accuracy(runs, p) for p in ("mup", "sp"))

    def difference(index: np.ndarray) -> float:
        return float(100 * (mup[index] - sp[index]).mean())

    return landscapes.over_seeds(difference, len(mup))
