"""Loss over several hyperparameters and across several dimensions: pictures and claims.

One hyperparameter and one dimension span a panel; in its runs, all others have their usual values.
Pure functions of the tidy table of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import conventions, landscapes, style, transfer
from experiments.analysis.conventions import AXES, DIMENSIONS, Axis
from experiments.declare.claims import Measured
from experiments.declare.layout import Layout


def landscape(
    runs: pd.DataFrame, layout: Layout, key: str, row: tuple[str, str]
) -> transfer.Landscape:
    """The landscape of a panel; all that it does not vary is at its usual value."""
    part = _part(runs, layout, key, row)
    return transfer.landscape(part, row[0], key, row[1], AXES[key].place)


def _part(runs: pd.DataFrame, layout: Layout, key: str, row: tuple[str, str]) -> pd.DataFrame:
    for column in {*layout.keys, *(dimension for _, dimension in layout.rows)} - {key, row[1]}:
        runs = runs[runs[column] == runs[column].mode().iloc[0]]
    return runs[runs["parametrization"] == row[0]]


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
        figsize=(1.9 + 2.25 * count[1], 1.1 + 2.3 * count[0]),
        squeeze=False,
        sharex="col",
    )
    found = [{key: landscape(runs, layout, key, row) for key in layout.keys} for row in layout.rows]
    limits = conventions.panel_limits(found, together=bool(heads))
    texts = heads or [""] * count[0]
    for i, (row, scapes, head, line) in enumerate(
        zip(layout.rows, found, texts, axes, strict=True)
    ):
        title, names = conventions.size_names(_part(runs, layout, "", row), row[1])
        landscapes.curves([*zip(line, scapes.values(), strict=True)], row[1], names=names)
        left, widest = None, max(np.ptp(limits[i, key]) for key in scapes)
        for ax, (key, scape) in zip(line, scapes.items(), strict=True):
            style.log2_axis(ax, "")
            _ticks(ax, key, scape.grid)
            ax.set_ylim(*limits[i, key])
            ax.tick_params(labelleft=limits[i, key] != left)
            if np.ptp(limits[i, key]) < widest:
                ax.set_title("own scale", loc="right", fontsize=7, color=style.GRAY, pad=3)
            left = limits[i, key]
        line[0].set_ylabel("\n".join(filter(None, (head, "training loss (nats)"))))
        handles, labels = style.legend_entries(line[0], line)
        line[-1].legend(
            handles,
            labels,
            title=title,
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            fontsize=8,
            title_fontsize=8,
        )
    for ax, key in zip(axes[-1], layout.keys, strict=True):
        ax.set_xlabel(AXES[key].label)
    return fig


def _ticks(ax: Axes, key: str, grid: np.ndarray) -> None:
    ticks = conventions.ticks(key, grid)
    if ticks is not None:
        ax.set_xticks(list(ticks), list(ticks.values()))
    if AXES[key].names:
        plt.setp(ax.get_xticklabels(), size=7.5, rotation=65, ha="right", rotation_mode="anchor")


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
