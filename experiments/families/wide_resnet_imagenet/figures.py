"""Table 13. Pure functions of the tidy table of runs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from experiments.analysis import searched
from experiments.analysis.text_table import TextTable
from experiments.data.image_source import SHAPES
from experiments.declare.claims import Measured
from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.families.wide_resnet_imagenet.spec import KEYS, TARGET, TARGET_SEEDS

PAPER = {  # Table 13: rate, multiplier, decay, momentum, accuracy at 0.125x and 1x
    "sp": ("32.768", "0.625", "0.000015", "0.4375", "58.12 %", "76.75 %"),
    "mup": ("32.768", "0.625", "0.000015", "0.4375", "58.12 %", "77.16 %"),
}


def carry(runs: Sequence[RunConfig], table: pd.DataFrame, scale: Scale) -> list[RunConfig]:
    """The best narrow combination at the wide model, in both parametrizations."""
    return searched.carried(runs, table, KEYS, TARGET[scale], TARGET_SEEDS[scale])


TIMES_CHANCE = 10


def mup_above_sp(runs: pd.DataFrame) -> Measured:
    """Accuracy of the wide µP model minus that of SP, in percentage points.

    NaN if neither reaches ten times chance: models that hardly learn are no evidence. (With ten
    classes no model could; then it is half of the images.)
    """
    _, classes = SHAPES[runs["data"].iloc[0]]
    least = min(TIMES_CHANCE / classes, 0.5)
    best = max(float(searched.wide_accuracy(runs, p).mean()) for p in searched.NAME)
    if best < least:
        return Measured(
            float("nan"),
            note=f"the better one is right in {100 * best:.1f} % of {classes} classes; below "
            f"{100 * least:g} % neither has learned enough to be compared",
        )
    return searched.mup_above_sp(runs)


def render_table13(runs: pd.DataFrame) -> TextTable:
    """SP and µP, the paper's numbers beside ours."""
    narrow, wide = runs["width"].min(), runs["width"].max()
    head = ["", "Learning rate", "Output mult.", "Weight decay", "Momentum", "Narrow", "Wide"]
    rows = []
    for parametrization, name in searched.NAME.items():
        rows.append([f"{name}, paper (0.125x to 1x)", *PAPER[parametrization]])
        best = searched.winner(runs, parametrization, KEYS)
        rows.append(
            [
                f"**{name}, here ({narrow / 64:g}x to {wide / 64:g}x)**",
                f"{2.0 ** best['log2lr']:.3g}",
                f"{best['output_mult']:g}",
                f"{best['weight_decay']:.3g}",
                f"{best['momentum']:.4g}",
                f"{100 * best[searched.METRIC]:.2f} %",
                searched.percent(searched.wide_accuracy(runs, parametrization)),
            ]
        )
    note = "Top-1 validation accuracy; ± is the standard error over seeds of the wide runs."
    return TextTable(head, rows, (note,))
