"""Loss over several hyperparameters and across several dimensions: pictures and claims.

One hyperparameter and one dimension span a panel; in its runs, all others have their usual values.
Pure functions of the tidy table of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import landscapes, style, transfer
from experiments.declare.claims import Measured
from experiments.declare.layout import Layout
from experiments.declare.schedules import SCHEDULES


@dataclass(frozen=True)
class Axis:
    """A hyperparameter: its label, and where a value stands on its axis (log2 without `place`)."""

    label: str
    place: Callable[[Any], float] | None = None
    names: Sequence[str] = ()


AXES = {
    "log2lr": Axis("log2 learning rate"),
    "output_mult": Axis("log2 output multiplier"),
    "attn_mult": Axis("log2 attention multiplier"),
    "init_std": Axis("log2 std of initialization"),
    "schedule": Axis("schedule", SCHEDULES.index, SCHEDULES),
    "beta2": Axis("−log2 (1 − Adam's β2)", lambda beta2: -math.log2(1 - beta2)),
}
DIMENSIONS = {
    "width": "width\n(d_model)",
    "d_ffn": "d_ffn",
    "n_layer": "depth\n(blocks)",
    "batch_size": "batch size",
    "seq_len": "sequence\nlength",
    "steps": "training\nsteps",
}


def landscape(
    runs: pd.DataFrame, layout: Layout, key: str, row: tuple[str, str]
) -> transfer.Landscape:
    """The landscape of a panel; all that it does not vary is at its usual value."""
    parametrization, along = row
    for column in {*layout.keys, *(dimension for _, dimension in layout.rows)} - {key, along}:
        runs = runs[runs[column] == runs[column].mode().iloc[0]]
    return transfer.landscape(runs, parametrization, key, along, AXES[key].place)


def draw(runs: pd.DataFrame, layout: Layout, heads: Sequence[str] = ()) -> Figure:
    """One row of panels per dimension or parametrization, one column per hyperparameter.

    Args:
        runs: the tidy table.
        layout: of the panels.
        heads: what stands before each row's loss axis; nothing if empty.
    """
    count = len(layout.rows), len(layout.keys)
    fig, axes = style.subplots(
        *count,
        figsize=(1.7 + 2.25 * count[1], 0.7 + 2.3 * count[0]),
        squeeze=False,
        sharex="col",
        sharey="all" if heads else "row",  # rows with heads are compared with each other
    )
    found = [{key: landscape(runs, layout, key, row) for key in layout.keys} for row in layout.rows]
    texts = heads or [""] * count[0]
    for row, scapes, head, line in zip(layout.rows, found, texts, axes, strict=True):
        for ax, (key, scape) in zip(line, scapes.items(), strict=True):
            landscapes.curves(ax, scape)
            style.log2_axis(ax, "")
            _ticks(ax, AXES[key], scape.grid)
        line[0].set_ylim(*_limits(found if heads else [scapes]))
        line[0].set_ylabel("\n".join(filter(None, (head, "training loss (nats)"))))
        line[-1].legend(
            title=DIMENSIONS[row[1]],
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            fontsize=8,
            title_fontsize=8,
        )
    for ax, key in zip(axes[-1], layout.keys, strict=True):
        ax.set_xlabel(AXES[key].label)
    return fig


def _limits(rows: Sequence[dict[str, transfer.Landscape]]) -> tuple[float, float]:
    """The limits of landscapes, raised above the mean losses of named values, such as schedules."""
    panels = [(key, scape) for row in rows for key, scape in row.items()]
    low, high = landscapes.limits(dict(enumerate(scape for _, scape in panels)))
    means = [scape.losses.mean(axis=0) for key, scape in panels if AXES[key].names]
    top = max((mean[np.isfinite(mean)].max(initial=low) for mean in means), default=low)
    return low, max(high, top + 0.03 * (top - low))


def _ticks(ax: Axes, axis: Axis, grid: np.ndarray) -> None:
    if axis.names:
        ax.set_xticks(grid, [axis.names[int(i)] for i in grid], rotation=60, fontsize=7)


def worst_regret(
    runs: pd.DataFrame, layout: Layout, row: tuple[str, str], keys: Sequence[str] = ()
) -> Measured:
    """The largest regret over a row's hyperparameters: the smallest model's best at the largest.

    Args:
        keys: hyperparameters of the row; all if empty.
    """
    return _worst(
        {key: landscape(runs, layout, key, row) for key in keys or layout.keys},
        np.max,
        transfer.regret,
        transfer.pick_regrets,
        lambda scape: (
            f"regret {transfer.regret(scape):.3f}, "
            f"rank correlation {transfer.rank_correlation(scape):.2f}"
        ),
    )


def least_kept_gain(
    runs: pd.DataFrame, layout: Layout, row: tuple[str, str], keys: Sequence[str] = ()
) -> Measured:
    """The least kept gain over a row's hyperparameters: the smallest model's best at the largest.

    Args:
        keys: hyperparameters of the row; all if empty.
    """
    return _worst(
        {key: landscape(runs, layout, key, row) for key in keys or layout.keys},
        np.min,
        transfer.kept_gain,
        transfer.pick_kept_gains,
        lambda scape: f"kept {transfer.kept_gain(scape):.2f}, {landscapes.kept_by_seed(scape)}",
    )


def optimum_drift(runs: pd.DataFrame, layout: Layout, row: tuple[str, str], key: str) -> Measured:
    """Octaves by which a hyperparameter's fitted optimum moves for each doubling of the size."""
    size = DIMENSIONS[row[1]].replace("\n", " ")
    return landscapes.optimum_drift(landscape(runs, layout, key, row), size)


def _worst(
    scapes: Mapping[str, transfer.Landscape],
    worst: Callable[..., Any],
    statistic: Callable[[transfer.Landscape, np.ndarray], float],
    picks: Callable[[transfer.Landscape], np.ndarray],
    told: Callable[[transfer.Landscape], str],
) -> Measured:
    """The worst statistic of some panels; a blind guess picks a value in each of them.

    `told` says in the note what each panel has.
    """

    def over(index: np.ndarray) -> float:
        return float(worst([statistic(s, s.losses[index]) for s in scapes.values()]))

    note = "; ".join(
        f"{key}: {_described(scape, AXES[key])}, {told(scape)}" for key, scape in scapes.items()
    )
    seeds = len(next(iter(scapes.values())).losses)
    guesses = np.meshgrid(*map(picks, scapes.values()))
    return landscapes.over_seeds(over, seeds, note, worst(guesses, axis=0).ravel().tolist())


def _described(scape: transfer.Landscape, axis: Axis) -> str:
    best = transfer.grid_optimum(scape.losses.mean(axis=0))[[0, -1]]

    def name(place: int) -> str:
        if axis.names:
            return axis.names[int(scape.grid[place])]
        edge = " (edge)" if place in (0, len(scape.grid) - 1) else ""
        return f"{scape.grid[place]:.3g}{edge}"

    return f"best at {name(best[0])} to {name(best[1])}"
