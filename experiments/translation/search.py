"""Searches of hyperparameters for translation: what is trained after them, tables, claims.

The tidy table holds three searches and the targets with their winners' hyperparameters:

- conventional tuning: runs of the target in SP, to which µP is equal at its size, seed 0;
- µTransfer: runs of the proxy in µP;
- naive transfer: runs of the proxy in SP.

A sample is a point of the hyperparameters `KEYS`. Its outcome is the BLEU of the target with it, on
the validation split, mean over seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import trial_pictures, trials
from experiments.analysis.text_table import TextTable
from experiments.declare.claims import Measured
from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.translation.config import TranslationConfig
from experiments.translation.spec_search import KEYS, Budgets

METRIC = "valid_bleu"
METHODS = {"tuned": ("sp", True), "mup": ("mup", False), "naive": ("sp", False)}
"""Parametrization of a method's search, and whether it is made at the target's size."""


def searched(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """The runs of a method's search, in a fixed order: those of seed 0."""
    parametrization, at_target = METHODS[method]
    size = runs["width"].max() if at_target else runs["width"].min()
    own = runs["parametrization"].eq(parametrization) & runs["width"].eq(size)
    return runs[own & runs["seed"].eq(0)].sort_values(list(KEYS), ignore_index=True)


def outcomes(runs: pd.DataFrame) -> pd.Series:
    """BLEU of the target by point, mean over seeds; minus infinity where one diverged."""
    target = runs[runs["width"].eq(runs["width"].max())]
    bleu = target[METRIC].where(~target["diverged"], -np.inf)
    means: pd.Series = bleu.groupby([target[key] for key in KEYS]).mean()
    return means


def pools(runs: pd.DataFrame) -> dict[str, trials.Pool]:
    """The samples of each method's search."""
    known = outcomes(runs)
    found = {}
    for method in METHODS:
        own = searched(runs, method)
        losses = own["valid_loss"].where(~own["diverged"], np.inf).to_numpy()
        points = own[list(KEYS)].itertuples(index=False, name=None)
        values = np.array([known.get(point, np.nan) for point in points], float)
        found[method] = trials.Pool(losses, values, _flops(own.iloc[0]))
    return found


def _flops(run: pd.Series) -> float:
    """Training FLOPs of a row of the tidy table."""
    keys = TranslationConfig.model_fields
    values = {k: v for k, v in run.items() if k in keys and pd.notna(v)}
    return TranslationConfig.make(**values).flops()


def carry(
    budgets: Budgets, runs: Sequence[RunConfig], table: pd.DataFrame, scale: Scale
) -> list[RunConfig]:
    """The targets that are needed: the points that may win a trial, with each of the seeds."""
    least = budgets.least(pools_of_searches(table))
    points: dict[tuple[Any, ...], None] = {}
    for method in METHODS:
        own = searched(table, method)
        losses = own["valid_loss"].where(~own["diverged"], np.inf).to_numpy()
        for i in trials.contenders(losses, least[method]):
            points[tuple(own.iloc[i][list(KEYS)])] = None
    target = next(run for run in runs if run.width == table["width"].max())
    return [
        target.replace(**dict(zip(KEYS, point, strict=True)), seed=seed)
        for point in points
        for seed in range(budgets.seeds[scale])
    ]
