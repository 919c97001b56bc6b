"""Pictures of the Transformer on WikiText-2. Pure functions of the tidy table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import conventions, landscapes, panels, style, training_curves, transfer
from experiments.declare.claims import Measured
from experiments.declare.layout import Layout
from experiments.families.transformer_wikitext2.spec_across import (
    DEPTH_KEYS,
    MUP_DEPTH,
    MUP_WIDTH,
    PANELS4,
)

# One hyperparameter at a time: what Figs. 4 and depth_mup need beside `analysis.panels`

DEPTH_ROWS = {name: (name, "n_layer") for name in ("mup", "depth_mup")}


def fig4_std_depth_against_width(runs: pd.DataFrame) -> Measured:
    """Regret of the best std of initialization across depth minus that across width."""
    rows = [panels.landscape(runs, PANELS4, "init_std", row) for row in (MUP_DEPTH, MUP_WIDTH)]
    return _regret_difference(*rows)


def depth_named(runs: pd.DataFrame) -> pd.DataFrame:
    """The table with runs of depth-µP under a parametrization of their own."""
    name = runs["parametrization"].where(runs["base_n_layer"].isna(), "depth_mup")
    return runs.assign(parametrization=name)


def _depth_layout(keys: Sequence[str]) -> Layout:
    return Layout(tuple(keys), tuple(DEPTH_ROWS.values()))


def draw_depth_mup(runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS) -> Figure:
    """µP above, depth-µP below."""
    return panels.draw(depth_named(runs), _depth_layout(keys), ("µP", "depth-µP"))


def depth_mup_regret(
    runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS, parametrization: str = "depth_mup"
) -> Measured:
    """The largest regret across depth, by default with depth-µP."""
    row = DEPTH_ROWS[parametrization]
    return panels.worst_regret(depth_named(runs), _depth_layout(keys), row)


def depth_mup_kept_gain(runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS) -> Measured:
    """The least kept gain across depth with depth-µP."""
    row = DEPTH_ROWS["depth_mup"]
    return panels.least_kept_gain(depth_named(runs), _depth_layout(keys), row)


def depth_mup_gain(runs: pd.DataFrame, keys: Sequence[str] = DEPTH_KEYS) -> Measured:
    """Regret of the best std of initialization across depth in µP minus that in depth-µP."""
    layout, named = _depth_layout(keys), depth_named(runs)
    return _regret_difference(
        *(panels.landscape(named, layout, "init_std", row) for row in layout.rows)
    )


def _regret_difference(one: transfer.Landscape, other: transfer.Landscape) -> Measured:
    def difference(index: np.ndarray) -> float:
        left, right = (transfer.regret(s, s.losses[index]) for s in (one, other))
        return left - right

    note = f"regrets {transfer.regret(one):.3f} and {transfer.regret(other):.3f}"
    return landscapes.over_seeds(difference, len(one.losses), note)


# Wider is better at every step: Fig. 7


def settings(steps: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The losses of every step by panel: µP, SP at the lower rate, SP at the higher one."""
    sp = steps[steps["parametrization"] == "sp"]
    return {
        "mup": steps[steps["parametrization"] == "mup"],
        "sp_low": sp[sp["log2lr"] == sp["log2lr"].min()],
        "sp_high": sp[sp["log2lr"] == sp["log2lr"].max()],
    }


def draw_fig7(steps: pd.DataFrame) -> Figure:
    """Loss over steps by width: µP, SP at a low rate, SP at a high one; violations below."""
    parts = settings(steps)
    fig, axes = style.subplots(
        2,
        3,
        figsize=(10.4, 4.6),
        sharex=True,
        sharey="row",
        height_ratios=(1, 0.07),
    )
    drawn = []
    for (panel, strip), part in zip(axes.T, parts.values(), strict=True):
        drawn.append(training_curves.by_width(panel, strip, part))
        strip.set_xlabel("step")
        parametrization = part["parametrization"].iloc[0]
        rate = part["log2lr"].iloc[0]
        panel.set_title(
            f"{conventions.SHORT[parametrization]}, log2 learning rate {conventions.number(rate)}",
            color=conventions.COLOR[parametrization],
        )
    axes[0, 0].set_ylim(*training_curves.limits(drawn))
    axes[0, 0].set_ylabel("training loss (nats)")
    style.legend(fig, axes[0, 0], "width\n(d_model)")
    return fig


def violated(steps: pd.DataFrame, name: str) -> Measured:
    """Share of the steps in which a wider model is worse than the next narrower one."""
    return training_curves.violated(settings(steps)[name])


# A wide model's instability in a narrow one: Fig. 21


def replays(runs: pd.DataFrame) -> dict[str, transfer.Landscape]:
    """Landscapes over actual widths in SP, and over simulated ones in a narrow µP model."""
    return {
        "sp": transfer.landscape(runs, "sp"),
        "mup": transfer.landscape(runs, "mup", along="base_width"),
    }


def draw_fig21(runs: pd.DataFrame) -> Figure:
    """Loss against learning rate, one curve per width: actual left, simulated right."""
    found = replays(runs)
    fig, axes = style.subplots(1, 2, figsize=(8.6, 3.9), sharex=True, sharey=True)
    narrow = runs.loc[runs["parametrization"] == "mup", "width"].iloc[0]
    titles = {"sp": "Actual width (SP)", "mup": f"Simulated width (µP, width {narrow})"}
    landscapes.curves([*zip(axes, found.values(), strict=True)])
    label = "unstable from\nhere on"  # once in the legend
    for ax, (name, scape) in zip(axes, found.items(), strict=True):
        mean = scape.losses.mean(axis=0)
        for size, row, rate in zip(scape.sizes, mean, transfer.onset(scape), strict=True):
            if np.isfinite(rate) and np.isfinite(row[scape.grid == rate]).all():
                color = conventions.size_color(size)
                ax.plot(
                    rate, row[scape.grid == rate], "s", ms=7, mfc="white", mec=color, label=label
                )
                label = ""
        ax.set_title(titles[name], color=conventions.COLOR[name])
        style.log2_axis(ax, "log2 learning rate")
    axes[0].set_ylim(*conventions.limits(found.values()))
    axes[0].set_ylabel("training loss (nats)")
    style.legend(fig, axes[0], "width")
    return fig


def fig21_onset_difference(runs: pd.DataFrame) -> Measured:
    """The largest difference, in grid steps, of the rates at which instability sets in."""
    found = replays(runs)
    onsets = {name: transfer.onset(scape) for name, scape in found.items()}
    step = float(np.diff(found["sp"].grid).min())
    difference = np.abs(onsets["sp"] - onsets["mup"]).max() / step
    note = "log2 rate of instability by width " + ", ".join(
        f"{size}: {actual:g} actual, {simulated:g} simulated"
        for size, actual, simulated in zip(found["sp"].sizes, *onsets.values(), strict=True)
    )
    guesses = [transfer.blind_optima(scape, seed) for seed, scape in enumerate(found.values())]
    picks = np.abs(np.subtract(*guesses)).max(axis=1)
    return Measured(float(difference), note=note, picks=picks.tolist())
