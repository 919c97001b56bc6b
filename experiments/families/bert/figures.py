"""Table 6 and its claims. Pure functions of the tidy table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import pandas as pd

from experiments.analysis import landscapes
from experiments.analysis.text_table import TextTable
from experiments.declare.claims import Measured
from experiments.declare.scales import Scale
from experiments.families.bert.config import TARGETS, BertConfig
from experiments.families.bert.spec import KEYS, SEEDS, speedups, target_of

METRIC = "test_loss"
METHODS = {"default": "default", "naive": "naive transfer", "mup": "µTransfer"}
# Table 6: model speedup, total speedup, test loss, MNLI (matched/mismatched), QQP.
PAPER = {
    ("base", "default"): ("1x", "1x", "1.995", "84.2/84.2", "90.6"),
    ("base", "naive"): ("4x", "40x", "diverged", "diverged", "diverged"),
    ("base", "mup"): ("4x", "40x", "1.970", "84.3/84.8", "90.8"),
    ("large", "default"): ("1x", "1x", "1.731", "86.3/86.2", "90.9"),
    ("large", "naive"): ("22x", "220x", "diverged", "diverged", "diverged"),
    ("large", "mup"): ("22x", "220x", "1.683", "87.0/86.5", "91.4"),
}


def proxies(runs: pd.DataFrame) -> pd.DataFrame:
    """The samples of the search."""
    return runs[runs["width"] == runs["width"].min()]


def carry(runs: Sequence[BertConfig], table: pd.DataFrame, scale: Scale) -> list[BertConfig]:
    """Both targets with the hyperparameters of the best proxy, in SP and in µP."""
    samples = proxies(table)
    best = samples.loc[samples[METRIC].where(~samples["diverged"], np.inf).idxmin()]
    point = {key: float(best[key]) for key in KEYS}
    target = next(run for run in runs if run.width != best["width"])
    return [
        target.replace(**sizes[scale], **point, parametrization=parametrization, seed=seed)
        for sizes in TARGETS.values()
        for parametrization in ("sp", "mup")
        for seed in range(SEEDS[scale])
    ]


def by_method(runs: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The runs of each target and method, by seed."""
    wide = runs[runs["width"] > runs["width"].min()]
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for width, own in wide.groupby("width", sort=True):
        tuned = own["embed_log2lr"].notna()
        parts = {
            "default": own[~tuned],
            "naive": own[tuned & (own["parametrization"] == "sp")],
            "mup": own[tuned & (own["parametrization"] == "mup")],
        }
        name, _ = target_of(cast(int, width))
        found |= {(name, method): part.sort_values("seed") for method, part in parts.items()}
    return found


def losses(part: pd.DataFrame) -> np.ndarray:
    """Test losses (S,) by seed; infinity for a run that diverged."""
    found: np.ndarray = part[METRIC].where(~part["diverged"], np.inf).to_numpy(float)
    return found


def largest_difference(runs: pd.DataFrame, left: str, right: str) -> Measured:
    """Test loss of the method `left` minus that of `right`, the larger of both targets'.

    It counts as 0 where both diverged.
    """
    parts = {key: losses(part) for key, part in by_method(runs).items()}

    def differences(index: np.ndarray) -> dict[str, float]:
        found = {}
        for name in TARGETS:
            one, other = (float(parts[name, m][index].mean()) for m in (left, right))
            found[name] = 0.0 if one == other else one - other
        return found

    seeds = len(next(iter(parts.values())))
    every = differences(np.arange(seeds))
    note = "by target " + ", ".join(f"{name}: {value:.3f}" for name, value in every.items())
    return landscapes.over_seeds(lambda index: max(differences(index).values()), seeds, note)


def render_table6(runs: pd.DataFrame) -> TextTable:
    """Both targets by method, the paper's rows beside ours."""
    head = ["Model", "Method", "Model speedup", "Total speedup", "Test loss", *ACCURACIES]
    proxy = proxies(runs)
    rows = []
    for (name, method), part in by_method(runs).items():
        label = f"BERT-{name}, paper"
        rows.append([label, METHODS[method], *PAPER[name, method], "–"])
        cells = ["1x", "1x"] if method == "default" else _speedups(name, part, proxy)
        accuracies = [_accuracies(part, columns) for columns in ACCURACIES.values()]
        loss = _mean(part, METRIC, "{:.3f}")
        rows.append([f"**{name}, here**", METHODS[method], *cells, loss, *accuracies])
    notes = [
        "The paper's and our test losses and accuracies cannot be compared: the text is another, "
        "and MNLI and QQP are samples. SST-2, which the paper does not have, is complete but for "
        "the number of examples that the scale allows."
    ]
    if not set(sum(ACCURACIES.values(), ())) & set(runs):
        notes.append("Nothing was finetuned: the built-in text comes without GLUE.")
    return TextTable(head, rows, tuple(notes))


ACCURACIES = {
    "MNLI (m/mm)": ("mnli_matched", "mnli_mismatched"),
    "QQP": ("qqp",),
    "SST-2": ("sst2",),
}


def _speedups(name: str, part: pd.DataFrame, proxy: pd.DataFrame) -> list[str]:
    """By FLOPs, and in brackets by the time of a step."""
    _, scale = target_of(part["width"].iloc[0])
    took = float(part["step_seconds"].median() / proxy["step_seconds"].median())
    in_all = took * float(part["steps"].iloc[0] / proxy["steps"].iloc[0])
    measured = [f" ({x:.3g}x)" if np.isfinite(x) else "" for x in (took, in_all)]
    return [f"{x:.3g}x{text}" for x, text in zip(speedups(name, scale), measured, strict=True)]


def _accuracies(part: pd.DataFrame, columns: Sequence[str]) -> str:
    if any(column not in part for column in columns):
        return "not run"
    return "/".join(_mean(part.assign(**{c: 100 * part[c]}), c, "{:.1f}") for c in columns)


def _mean(part: pd.DataFrame, column: str, text: str) -> str:
    """The mean over seeds; a single divergence is one of the method."""
    return "diverged" if part["diverged"].any() else text.format(part[column].mean())
