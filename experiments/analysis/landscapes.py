"""Loss over one hyperparameter, one curve per width, SP beside µP: pictures and claims.

Pure functions of the tidy table of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import conventions, style, transfer
from experiments.declare.claims import Measured


def draw_pair(
    runs: pd.DataFrame, ylabel: str = "training loss (nats)", width: str = "width"
) -> Figure:
    """Loss over the learning rate, one curve per width, SP beside µP on the same axes.

    Args:
        runs: the tidy table.
        ylabel: of the loss.
        width: what the width is called in the legend.
    """
    return draw_pairs({"": runs}, {"": ylabel}, width)


def draw_pairs(
    pairs: Mapping[str, pd.DataFrame], ylabels: Mapping[str, str], width: str = "width"
) -> Figure:
    """Panels of SP and µP side by side, one pair per tidy table; a pair shares its loss axis.

    Args:
        pairs: tidy tables by heading; a single one may have the heading "".
        ylabels: by heading.
        width: its name in the legend.
    """
    count = len(pairs)
    fig, axes = style.subplots(
        1, 2 * count, figsize=(8.6 if count == 1 else 1.2 + 5.2 * count, 3.9), squeeze=False
    )
    scapes = [{p: transfer.landscape(runs, p) for p in ("sp", "mup")} for runs in pairs.values()]
    curves([*zip(axes[0], (scape for pair in scapes for scape in pair.values()), strict=True)])
    for i, (heading, pair) in enumerate(zip(pairs, scapes, strict=True)):
        left, right = axes[0, 2 * i : 2 * i + 2]
        right.sharex(left)
        right.sharey(left)
        right.tick_params(labelleft=False)
        _pair(left, right, pair, short=count > 1, heading=heading)
        left.set_ylabel(ylabels[heading])
    style.legend(fig, axes[0, -1], width)
    return fig


def _pair(
    left: Axes, right: Axes, scapes: Mapping[str, transfer.Landscape], short: bool, heading: str
) -> None:
    """What a pair of panels has beside its curves."""
    best_mup = scapes["mup"].losses.mean(axis=0).min()  # infinite if every rate diverged
    for ax, parametrization in zip((left, right), scapes, strict=True):
        if np.isfinite(best_mup):
            ax.axhline(best_mup, color="#444444", linestyle="--", linewidth=1, zorder=1)
        name = conventions.SHORT[parametrization]
        title = f"{heading}, {name}" if short else conventions.NAME[parametrization]
        ax.set_title(title, color=conventions.COLOR[parametrization])
        style.log2_axis(ax, "log2 learning rate")
    left.set_ylim(*conventions.limits(scapes.values()))
    if np.isfinite(best_mup):
        left.annotate(
            "best µP model",
            (scapes["sp"].grid[0], best_mup),  # small rates are the farthest from the best loss
            xytext=(0, -3),
            textcoords="offset points",
            ha="left",
            va="top",
            fontsize=7.5,
            color="#444444",
        )


def curves(
    panels: Sequence[tuple[Axes, transfer.Landscape]],
    dimension: str = "width",
    *,
    show: Callable[[np.ndarray], np.ndarray] = np.asarray,
    names: Mapping[int, str] | None = None,
    rows: Sequence[int] | None = None,
) -> None:
    """One curve per size with its range over seeds; best points and divergences are marked.

    Args:
        panels: those that stand side by side.
        dimension: column of the sizes.
        show: turns losses into what is drawn, such as error rates into accuracies.
        names: of the sizes in a legend, if not their numbers.
        rows: sizes that have a row of marks of divergence above the panels; by default those that
            diverged in one of them.
    """
    if rows is None:
        rows = conventions.diverged_sizes(scape for _, scape in panels)
    nowhere = np.empty(0), np.empty(0)
    for ax, scape in panels:
        others = {id(artist) for artist in ax.get_children()}
        sizes = {size: conventions.size_color(size, dimension) for size in scape.sizes.tolist()}
        marks = conventions.mark_sizes(len(scape.sizes))
        for size, mark, losses in zip(
            scape.sizes.tolist(), marks, np.moveaxis(scape.losses, 1, 0), strict=True
        ):
            name = names[size] if names else f"{size}"
            _curve(ax, scape.grid, losses, show, color=sizes[size], label=name, mark=mark)
        lost = conventions.divergences(scape)
        colors = [conventions.size_color(size, dimension) for size in rows]
        style.strip(
            ax, [(c, *lost.get(size, nowhere)) for c, size in zip(colors, rows, strict=True)]
        )
        drawn = frozenset(id(artist) for artist in ax.get_children()) - others
        name = conventions.DIMENSIONS.get(dimension, dimension)
        style.remember(ax, style.Shown(scape, name, show, sizes, names or {}, drawn))


def _curve(
    ax: Axes,
    grid: np.ndarray,
    losses: np.ndarray,
    show: Callable[[np.ndarray], np.ndarray],
    *,
    color: str,
    label: str,
    mark: float,
) -> None:
    """One size's mean over the grid, its range over seeds, and a mark of `mark` points."""
    mean = np.where(np.isfinite(losses), losses, np.nan).mean(axis=0)
    ax.plot(grid, show(mean), color=color, label=label, zorder=2)
    ax.fill_between(
        grid, show(losses.min(axis=0)), show(losses.max(axis=0)), color=color, alpha=0.2, lw=0
    )
    lost = np.isnan(mean)
    around = np.pad(lost, 1, constant_values=True)
    alone = ~lost & around[:-2] & around[2:]  # no line reaches a point between two divergences
    ax.plot(grid[alone], show(mean[alone]), ".", ms=4, color=color, zorder=2)
    if not lost.all():
        best = np.nanargmin(mean)
        fill = conventions.tint(color)
        ax.plot(grid[best], show(mean[best]), "o", ms=mark, mec=color, mfc=fill, mew=1.4, zorder=3)


def over_seeds(
    statistic: Callable[[np.ndarray], float],
    seeds: int,
    note: str = "",
    picks: Sequence[float] = (),
) -> Measured:
    """A statistic of seed indices for all seeds, with its bootstrap interval."""
    value = statistic(np.arange(seeds))
    low, high = transfer.bootstrap(statistic, seeds) or (None, None)
    missing = "" if low is not None else "no interval: one seed, or a resample without a value"
    return Measured(value, low, high, "; ".join(filter(None, (note, missing))), picks)


def _best_rates(scape: transfer.Landscape, size: str = "width") -> tuple[str, bool]:
    """A note with each size's best grid point, and whether all of them are inside the grid."""
    mean = scape.losses.mean(axis=0)
    best, lost = transfer.grid_optimum(mean), transfer.diverged_sizes(mean)
    rates = [
        f"{width}: {'diverged' if gone else format(rate, 'g')}"
        for width, rate, gone in zip(scape.sizes, scape.grid[best], lost, strict=True)
    ]
    note = f"best log2 value by {size} " + ", ".join(rates)
    edge = np.isin(best, (0, len(scape.grid) - 1)) & ~lost
    if edge.any():
        note += "; an optimum is at the edge of the grid"
    return note, not (edge | lost).any()


def mup_optimum_range(runs: pd.DataFrame) -> Measured:
    """How far apart the best learning rates of µP lie over the widths, in grid steps."""
    return optimum_range(transfer.landscape(runs, "mup"))


def optimum_range(scape: transfer.Landscape) -> Measured:
    """How far apart the best grid points lie over the widths, in grid steps.

    With an optimum at the edge of the grid the range is a lower bound, which decides only if it
    exceeds one step; otherwise the value is NaN. NaN, too, if a width diverged at every rate.
    """
    mean = scape.losses.mean(axis=0)
    best = transfer.grid_optimum(mean)
    note, inside = _best_rates(scape)
    steps = float(best.max() - best.min())
    known = inside or (steps > 1 and not transfer.diverged_sizes(mean).any())
    picks = np.ptp(transfer.blind_optima(scape), axis=1).tolist()
    return Measured(steps if known else float("nan"), note=note, picks=picks)


def sp_optimum_drift(runs: pd.DataFrame) -> Measured:
    """Octaves by which the fitted optimum of SP moves for each doubling of the width."""
    return optimum_drift(transfer.landscape(runs, "sp"))


def optimum_drift(scape: transfer.Landscape, size: str = "width") -> Measured:
    """Octaves by which the fitted optimum moves for each doubling of the size, called `size`."""
    fitted = [transfer.fitted_optimum(scape.grid, row) for row in scape.losses.mean(axis=0)]
    steps = ", ".join(f"{step:.2f}" for step in np.diff(fitted))
    return over_seeds(
        lambda index: transfer.drift_per_doubling(scape, scape.losses[index]),
        len(scape.losses),
        f"{_best_rates(scape, size)[0]}; octaves at each step to the next {size} {steps}",
        np.polyfit(np.log2(scape.sizes), scape.grid[transfer.blind_optima(scape)].T, 1)[0].tolist(),
    )


def mup_worst_widening(runs: pd.DataFrame) -> Measured:
    """The largest loss increase of µP to the next width up to the narrowest's best rate."""
    return largest_widening(transfer.landscape(runs, "mup"))


def largest_widening(scape: transfer.Landscape) -> Measured:
    """The largest loss increase to the next width up to the narrowest model's best rate."""
    up_to = int(transfer.grid_optimum(scape.losses.mean(axis=0))[0])
    value = transfer.worst_widening(scape, up_to)
    note = "relative to the Bonferroni bound of the pooled seed noise; below 0: always better"
    return Measured(value, note="needs two seeds and two widths" if np.isnan(value) else note)


def mup_minus_sp(runs: pd.DataFrame) -> Measured:
    """Best loss of the widest µP model minus that of the widest SP model."""
    mup, sp = transfer.landscape(runs, "mup"), transfer.landscape(runs, "sp")
    return over_seeds(
        lambda index: transfer.best_difference(mup.losses[index], sp.losses[index]),
        len(mup.losses),
    )


def mup_regret(runs: pd.DataFrame) -> Measured:
    """What the narrowest µP model's best rate costs the widest."""
    return regret(transfer.landscape(runs, "mup"))


def sp_regret(runs: pd.DataFrame) -> Measured:
    """What the narrowest SP model's best rate costs the widest."""
    return regret(transfer.landscape(runs, "sp"))


def regret(scape: transfer.Landscape, factor: float = 1.0) -> Measured:
    """What the smallest model's best value costs the largest, times `factor` (a unit's)."""
    return over_seeds(
        lambda index: factor * transfer.regret(scape, scape.losses[index]),
        len(scape.losses),
        picks=(factor * transfer.pick_regrets(scape)).tolist(),
    )


def mup_kept_gain(runs: pd.DataFrame) -> Measured:
    """The share of the widest µP model's gain that the narrowest one's best rate keeps."""
    return kept_gain(transfer.landscape(runs, "mup"))


def sp_kept_gain(runs: pd.DataFrame) -> Measured:
    """The share of the widest SP model's gain that the narrowest one's best rate keeps."""
    return kept_gain(transfer.landscape(runs, "sp"))


def kept_gain(scape: transfer.Landscape) -> Measured:
    """The share of the largest model's gain that the smallest one's best value keeps."""
    return over_seeds(
        lambda index: transfer.kept_gain(scape, scape.losses[index]),
        len(scape.losses),
        kept_by_seed(scape),
        transfer.pick_kept_gains(scape).tolist(),
    )


def kept_by_seed(scape: transfer.Landscape) -> str:
    """A note with the kept gain of each seed by itself."""
    values = [transfer.kept_gain(scape, losses[None]) for losses in scape.losses]
    return "by seed " + ", ".join(f"{value:.2f}" for value in values)
