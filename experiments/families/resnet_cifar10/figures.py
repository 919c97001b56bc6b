"""Figure 16, Table 12 and their claims. Pure functions of the tidy table of runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import conventions, landscapes, searched, style, transfer
from experiments.analysis.text_table import TextTable
from experiments.declare.claims import Measured
from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.families.resnet_cifar10.spec import TARGET, TARGET_SEEDS

KEYS = ("log2lr", "output_mult")
PAPER = {  # Table 12
    "sp": ("0.707", "4", "92.82 %", "94.86 %"),
    "mup": ("0.5", "4", "92.78 %", "95.29 %"),
}


def scapes(runs: pd.DataFrame) -> dict[str, transfer.Landscape]:
    """Error rates over the rate in SP and µP, and over the multiplier in µP where it is swept."""
    tuned_rate, tuned_mult = (_fixed(runs, key) for key in KEYS)
    error = runs.assign(final_loss=1 - runs[searched.METRIC])
    at_mult = error[error["output_mult"] == tuned_mult]
    found = {p: transfer.landscape(at_mult, p) for p in ("sp", "mup")}
    if error["output_mult"].nunique() > 1:
        at_rate = error[(error["log2lr"] == tuned_rate) & (error["parametrization"] == "mup")]
        found["multiplier"] = transfer.landscape(at_rate, "mup", "output_mult")
    return found


def _fixed(runs: pd.DataFrame, key: str) -> float:
    """The value of a key that most runs have: what is not swept."""
    return float(runs[key].mode().iloc[0])


def _percent(error: np.ndarray) -> np.ndarray:
    return 100 * (1 - np.asarray(error))


def draw_fig16(runs: pd.DataFrame) -> Figure:
    """Accuracy over learning rate in SP and µP, and over the output multiplier where swept."""
    found = scapes(runs)
    panels = len(found)
    fig, axes = style.subplots(1, panels, figsize=(1.4 + 3 * panels, 3.9), sharey=True)
    titles = {
        "sp": (conventions.NAME["sp"], "log2 learning rate"),
        "mup": ("Maximal update (µP)", "log2 learning rate"),
        "multiplier": ("Maximal update (µP)", "log2 output multiplier"),
    }
    landscapes.curves([*zip(axes, found.values(), strict=True)], show=_percent)
    for ax, name in zip(axes, found, strict=True):
        title, label = titles[name]
        ax.set_title(title, color=conventions.COLOR["sp" if name == "sp" else "mup"])
        style.log2_axis(ax, label)
    axes[0].set_ylabel("validation accuracy (%)")
    style.legend(fig, axes[1], "width\n(channels)")
    return fig


def optimum_range(runs: pd.DataFrame, name: str) -> Measured:
    """How far apart the best values of µP lie over the widths, in grid steps."""
    return landscapes.optimum_range(scapes(runs)[name])


def mup_worst_widening(runs: pd.DataFrame) -> Measured:
    """The largest increase of the error to the next width up to the narrowest's best rate."""
    return landscapes.largest_widening(scapes(runs)["mup"])


def sp_last_widening(runs: pd.DataFrame) -> Measured:
    """Best accuracy of the widest SP model minus that of the next narrower one."""
    losses = scapes(runs)["sp"].losses

    def gain(index: np.ndarray) -> float:
        best = losses[index].mean(axis=0).min(axis=1)
        return float(100 * (best[-2] - best[-1]))

    return landscapes.over_seeds(gain, len(losses))


def mup_above_sp(runs: pd.DataFrame) -> Measured:
    """Best accuracy of the widest µP model minus that of the widest SP model."""
    found = scapes(runs)

    def difference(index: np.ndarray) -> float:
        sp, mup = (found[p].losses[index] for p in ("sp", "mup"))
        return 100 * transfer.best_difference(sp, mup)

    return landscapes.over_seeds(difference, len(found["sp"].losses))


def regret(runs: pd.DataFrame, name: str) -> Measured:
    """What the narrowest model's best rate costs the widest, in percentage points of accuracy."""
    return landscapes.regret(scapes(runs)[name], 100)


def kept_gain(runs: pd.DataFrame, name: str) -> Measured:
    """The share of the widest model's gain in accuracy that the narrowest's best rate keeps."""
    return landscapes.kept_gain(scapes(runs)[name])


# Table 12


def carry(runs: Sequence[RunConfig], table: pd.DataFrame, scale: Scale) -> list[RunConfig]:
    """The best narrow combination of each parametrization at the widest model."""
    return searched.carried(runs, table, KEYS, TARGET[scale], TARGET_SEEDS[scale])


def render_table12(runs: pd.DataFrame) -> TextTable:
    """SP and µP, the paper's numbers beside ours."""
    narrow, wide = runs["width"].min(), runs["width"].max()
    head = ["", "Best learning rate", "Best output mult.", "Narrow", "Wide"]
    rows = []
    for parametrization, name in searched.NAME.items():
        rows.append([f"{name}, paper (0.5x to 8x)", *PAPER[parametrization]])
        best = searched.winner(runs, parametrization, KEYS)
        rows.append(
            [
                f"**{name}, here ({narrow / 64:g}x to {wide / 64:g}x)**",
                f"{2.0 ** best['log2lr']:.3g}",
                f"{best['output_mult']:g}",
                f"{100 * best[searched.METRIC]:.2f} %",
                searched.percent(searched.wide_accuracy(runs, parametrization)),
            ]
        )
    note = "Validation accuracy; ± is the standard error over seeds of the wide runs."
    return TextTable(head, rows, (note,))
