"""Searches of hyperparameters for translation: what is trained after them, pictures, claims.

The tidy table holds the searches of a `Tuning` and the targets with their winners' hyperparameters.
A sample is a point of the hyperparameters. Its outcome is the BLEU of the target with them, on the
validation split, mean over seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import trial_pictures, trials
from experiments.analysis.text_table import TextTable
from experiments.analysis.trials import Pool
from experiments.declare.claims import Measured
from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.translation.config import TranslationConfig
from experiments.translation.spec_search import KEYS, METHODS, PARAMETRIZATION, Tuning

METRIC = "valid_bleu"
SEARCH_SEED = 0


def pool(tuning: Tuning, runs: pd.DataFrame, method: str, first: int | None = None) -> Pool:
    """The samples of a method's search, or the first of them.

    A trial of a method whose search is at the proxy's size ends with one training of the target.
    """
    own, target = searched(tuning, runs, method, first), _targets(runs)
    bleu = _measured(target, METRIC).where(~target["diverged"], -np.inf)
    known = bleu.groupby([target[key] for key in KEYS]).mean()
    points = own[list(KEYS)].itertuples(index=False, name=None)
    return Pool(
        losses=_measured(own, "valid_loss").where(~own["diverged"], np.inf).to_numpy(),
        outcomes=np.array([known.get(point, np.nan) for point in points], float),
        flops=_flops(own.iloc[0]),
        flops_after=0.0 if method == "tuned" else _flops(target.iloc[0]),
    )


def searched(
    tuning: Tuning, runs: pd.DataFrame, method: str, first: int | None = None
) -> pd.DataFrame:
    """The runs of a method's search, or the first of them, a row for each point of the draw."""
    size = runs["width"].max() if method == "tuned" else runs["width"].min()
    own = runs["parametrization"].eq(PARAMETRIZATION[method]) & runs["width"].eq(size)
    table = runs[own & runs["seed"].eq(SEARCH_SEED)].set_index(list(KEYS))
    points = tuning.points(tuning.scale_of(int(runs["width"].max())), method)[:first]
    return table.loc[points].reset_index()


def _measured(runs: pd.DataFrame, metric: str) -> pd.Series:
    """A metric of some runs; a table in which all runs diverged has no column of it."""
    column: pd.Series = runs.reindex(columns=[metric])[metric].astype(float)
    return column


def _targets(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["width"].eq(runs["width"].max())]


def _flops(run: pd.Series) -> float:
    """Training FLOPs of a row of the tidy table."""
    keys = TranslationConfig.model_fields
    values = {k: v for k, v in run.items() if k in keys and pd.notna(v)}
    return TranslationConfig.make(**values).flops()


def carry(
    runs: Sequence[RunConfig], table: pd.DataFrame, scale: Scale, tuning: Tuning
) -> list[RunConfig]:
    """The targets whose outcomes are needed: with the points that may win a trial, every seed."""
    target = next(run for run in runs if run.width == table["width"].max())
    budget = min(tuning.budgets) * target.flops()
    points: dict[tuple[float, ...], None] = {}
    for method, each in _pools(tuning, table).items():
        drawn = tuning.points(scale, method)
        for i in trials.contenders(each.losses, each.affordable(budget)):
            points[drawn[i]] = None
    return [
        target.replace(**dict(zip(KEYS, point, strict=True)), seed=seed)
        for point in points
        for seed in range(tuning.seeds[scale])
    ]


def _pools(tuning: Tuning, runs: pd.DataFrame) -> dict[str, Pool]:
    return {method: pool(tuning, runs, method) for method in METHODS}


def _compute(pools: dict[str, Pool], samples: int) -> float:
    """FLOPs of conventional tuning with some number of samples."""
    return samples * pools["tuned"].flops


def _equal(tuning: Tuning, runs: pd.DataFrame) -> dict[str, Pool]:
    """Pools of the points that are searched at both sizes: all their outcomes are known."""
    count = len(searched(tuning, runs, "tuned"))
    return {method: pool(tuning, runs, method, count) for method in ("tuned", "mup")}


# Claims


def least_gain(runs: pd.DataFrame, tuning: Tuning) -> Measured:
    """Median BLEU of µTransfer minus that of conventional tuning, the least over the budgets."""
    pools = _pools(tuning, runs)
    budgets = [_compute(pools, samples) for samples in tuning.budgets]
    return trials.least_gain(pools["mup"], pools["tuned"], budgets)


def spread_difference(runs: pd.DataFrame, tuning: Tuning) -> Measured:
    """Spread of µTransfer's trials at 1x minus that of conventional tuning's."""
    pools = _pools(tuning, runs)
    one = _compute(pools, tuning.one)
    return trials.spread_difference(pools["mup"], pools["tuned"], one, tuning.trials)


def naive_shortfall(runs: pd.DataFrame, tuning: Tuning) -> Measured:
    """Median BLEU of naive transfer at 1x minus the lower one of the two other methods."""
    pools = _pools(tuning, runs)
    one = _compute(pools, tuning.one)
    return trials.naive_shortfall(pools["naive"], pools["mup"], pools["tuned"], one)


def gap_change(runs: pd.DataFrame, tuning: Tuning) -> Measured:
    """How what conventional tuning is better by, at equal samples, changes with their number."""
    pools = _equal(tuning, runs)
    return trials.gap_change(pools["mup"], pools["tuned"], tuning.budgets[0], tuning.budgets[-1])


# Pictures and tables


def draw_front(runs: pd.DataFrame, tuning: Tuning) -> Figure:
    """Median BLEU against compute, and against the number of samples."""
    pools, equal = _pools(tuning, runs), _equal(tuning, runs)
    one = _compute(pools, tuning.one)
    samples = {
        method: [each.affordable(_compute(pools, n)) for n in tuning.budgets]
        for method, each in pools.items()
    }
    by_compute = {m: trials.curve(pools[m], samples[m], one) for m in METHODS}
    by_samples = {m: trials.curve(each, tuning.budgets, one) for m, each in equal.items()}
    return trial_pictures.draw(by_compute, by_samples)


def render(
    runs: pd.DataFrame, tuning: Tuning, paper: Sequence[Sequence[str]], heads: Sequence[str]
) -> TextTable:
    """Percentiles of BLEU over trials, the paper's rows and ours.

    Args:
        runs: the tidy table.
        tuning: the searches.
        paper: the paper's rows, as the table has them.
        heads: of the percentiles.
    """
    pools = _pools(tuning, runs)
    one = _compute(pools, tuning.one)
    default = _default(tuning, runs)
    best = "diverged" if default["diverged"] else f"{default[METRIC]:.2f}"
    empty = ["–"] * (len(heads) - 1)
    rows = [
        [*paper[0]],
        ["**Without a search, all multipliers 1, here**", "–", "–", *empty, best],
        *([*row] for row in paper[1:]),
    ]
    for method in METHODS:
        samples = pools[method].affordable(one)
        found = trials.percentiles(pools[method], samples, tuning.percentiles, tuning.trials)
        cells = [f"{bleu:.2f}" if np.isfinite(bleu) else "diverged" for bleu in found]
        compute = f"{pools[method].compute(samples) / one:.2g}x"
        rows.append([f"**{trials.NAME[method]}, here**", compute, f"{samples}", *cells])
    signatures = sorted({s for s in runs.get("bleu_signature", pd.Series()).dropna()})
    sizes = ", ".join(
        f"{len(pools[m].losses)} samples of {name}" for m, name in trials.NAME.items()
    )
    notes = (
        f"Here a trial draws its samples with replacement from one pool: {sizes}. What it costs is "
        "that of its samples and, after a search at the proxy, of one training of the target.",
        f"BLEU of the validation split by sacrebleu, {', '.join(signatures)}.",
    )
    return TextTable(["Setup", "Total compute", "Samples", *heads], rows, notes)


def _default(tuning: Tuning, runs: pd.DataFrame) -> pd.Series:
    """The run of the target at the point that was not searched."""
    found = _targets(runs).set_index(list(KEYS))
    scale = tuning.scale_of(int(runs["width"].max()))
    point = tuple(tuning.default(scale)[key] for key in KEYS)
    row: pd.Series = found.loc[[point]].iloc[0]
    return row


def render_examples(runs: pd.DataFrame, tuning: Tuning) -> TextTable:
    """The first sentences of the validation split, translated by the target after each search."""
    pools = _pools(tuning, runs)
    columns: dict[str, list[list[str]]] = {}
    for method in ("naive", "mup"):
        best = int(np.argmin(pools[method].losses))
        point = searched(tuning, runs, method).loc[best, list(KEYS)]
        target = _targets(runs)
        same = (target[list(KEYS)] == point).all(axis=1) & target["seed"].eq(SEARCH_SEED)
        texts = target.reindex(columns=["examples"]).loc[same, "examples"].dropna()
        columns[method] = json.loads(texts.iloc[0]) if len(texts) else []
    known = next((c for c in columns.values() if c), [])
    rows = [
        [
            source,
            reference,
            *(columns[m][i][2] if columns[m] else "(diverged)" for m in ("naive", "mup")),
        ]
        for i, (source, reference, _) in enumerate(known)
    ]
    heads = ["Source", "Reference", "SP, naive transfer", "µP, µTransfer"]
    return TextTable(heads, rows, ("The first sentences of the validation split, in its order.",))
