"""Pictures and claims of the MLPs on CIFAR-10. Pure functions of the tidy table of runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from experiments.analysis import conventions, landscapes, style, transfer
from experiments.analysis.animation import Frames
from experiments.analysis.conventions import ANCHORS
from experiments.declare.claims import Measured

LOSS = {"xent": "training loss (nats)", "mse": "training loss (squared error)"}


def draw_fig9(runs: pd.DataFrame) -> Figure:
    """The same with tanh: cross-entropy, then squared error."""
    tanh = runs[runs["activation"] == "tanh"]
    pairs = {
        "cross-entropy": tanh[tanh["loss"] == "xent"],
        "squared error": tanh[tanh["loss"] == "mse"],
    }
    return landscapes.draw_pairs(
        pairs, {"cross-entropy": LOSS["xent"], "squared error": LOSS["mse"]}
    )


def draw_squared_error(runs: pd.DataFrame) -> Figure:
    """The part of the squared error alone."""
    return landscapes.draw_pair(runs, LOSS["mse"])


def mup_minus_sp(runs: pd.DataFrame, activation: str, loss: str) -> Measured:
    """Best loss of the widest µP model minus that of the widest SP model, of one kind of MLP."""
    return landscapes.mup_minus_sp(_part(runs, activation, loss))


def slower_convergence(runs: pd.DataFrame) -> Measured:
    """How much larger a share of the first widening's change the last one's is with tanh."""
    relu, tanh = (
        transfer.landscape(_part(runs, activation, "xent"), "mup")
        for activation in ("relu", "tanh")
    )
    if len(relu.sizes) < 3:
        return Measured(float("nan"), note="needs three widths")

    def difference(index: np.ndarray) -> float:
        return _remaining(tanh.losses[index]) - _remaining(relu.losses[index])

    shares = [_remaining(scape.losses) for scape in (relu, tanh)]
    note = f"share with ReLU {shares[0]:.2f}, with tanh {shares[1]:.2f}"
    return landscapes.over_seeds(difference, len(relu.losses), note)


def _remaining(losses: np.ndarray) -> float:
    """Mean change at the last widening over that at the first, where no run diverged."""
    mean = losses.mean(axis=0)
    mean = mean[:, np.isfinite(mean).all(axis=0)]
    change = np.abs(np.diff(mean, axis=0)).mean(axis=1)
    return float(change[-1] / change[0])


def _part(runs: pd.DataFrame, activation: str, loss: str) -> pd.DataFrame:
    return runs[(runs["activation"] == activation) & (runs["loss"] == loss)]


# Between SP and µP


def by_t(runs: pd.DataFrame) -> dict[float, transfer.Landscape]:
    """The landscape at each t; SP is t = 0."""
    t = runs["t"].where(runs["parametrization"] == "mup", 0.0)
    return {
        float(value): transfer.landscape(runs[t == value].assign(parametrization="mup"), "mup")
        for value in sorted(t.unique())
    }


def draw_frames(runs: pd.DataFrame) -> Figure:
    """A panel for each t, all on the same axes."""
    scapes = by_t(runs)
    fig, axes = style.subplots(
        1, len(scapes), figsize=(1.4 + 1.75 * len(scapes), 3.4), sharey=True, squeeze=False
    )
    landscapes.curves([*zip(axes[0], scapes.values(), strict=True)])
    for ax, t in zip(axes[0], scapes, strict=True):
        _frame(ax, t, scapes)
        ax.xaxis.set_major_locator(MultipleLocator(4))
    axes[0, 0].set_ylabel(LOSS["xent"])
    style.legend(fig, axes[0, 0], "width")
    return fig


def animate(runs: pd.DataFrame) -> Frames:
    """A frame for each t, which a dot on a line from SP to µP shows; it holds at both."""
    scapes = by_t(runs)
    fig, (line, ax) = style.subplots(2, 1, figsize=(4.6, 4.6), height_ratios=(0.01, 1))
    t_values = list(scapes)
    rows = conventions.diverged_sizes(scapes.values())

    def show(i: int) -> None:
        _t_line(line, t_values, t_values[i])
        ax.clear()
        landscapes.curves([(ax, scapes[t_values[i]])], rows=rows)
        _frame(ax, t_values[i], scapes)
        ax.set_ylabel(LOSS["xent"])
        entries = style.legend_entries(ax, [ax])
        ax.legend(*entries, title="width", loc="lower left", ncols=2, fontsize=8, title_fontsize=8)

    show(0)
    held = [i for i, t in enumerate(t_values) if t in ANCHORS]
    return Frames(fig, show, [_name(t) for t in t_values], held)


def _t_line(ax: Axes, t_values: Sequence[float], t: float) -> None:
    """Where a frame stands between SP and µP, and beyond."""
    ax.clear()
    ax.plot(t_values, [0] * len(t_values), "|-", color="#999999", lw=1, ms=5)
    ax.plot(t, 0, "o", ms=8, color=_color(t), clip_on=False, zorder=3)
    ax.set_xticks(t_values, [f"{x:g}" + _anchor(x, "\n{}") for x in t_values], fontsize=8)
    ax.tick_params(left=False, labelleft=False, bottom=False)
    ax.spines[:].set_visible(False)
    ax.grid(False)


def _frame(ax: Axes, t: float, scapes: dict[float, transfer.Landscape]) -> None:
    """Title and limits, alike for each t."""
    ax.set_title(_name(t), color=_color(t))
    style.log2_axis(ax, "log2 learning rate")
    ends = np.array([[scape.grid.min(), scape.grid.max()] for scape in scapes.values()])
    ax.set_xlim(ends[:, 0].min() - 0.5, ends[:, 1].max() + 0.5)
    ax.set_ylim(*conventions.limits(scapes.values()))


def _anchor(t: float, words: str) -> str:
    return words.format(conventions.SHORT[ANCHORS[t]]) if t in ANCHORS else ""


def _name(t: float) -> str:
    return f"t = {t:g}" + _anchor(t, " ({})")


def _color(t: float) -> str:
    return conventions.COLOR.get(ANCHORS.get(t, ""), "black")


INFINITE = "infinite: the widest\nmodel diverged there"
NO_VALUE = "no value: no best rate\ninside the grid"


def draw_interpolation(runs: pd.DataFrame) -> Figure:
    """Drift of the optimum and regret against t, with intervals over seeds."""
    scapes = by_t(runs)
    fig, axes = style.subplots(1, 2, figsize=(8.6, 3.6))
    panels = {
        "drift of the best rate\n(octaves per doubling)": transfer.drift_per_doubling,
        "regret of the narrowest's rate\n(nats)": transfer.regret,
    }
    for ax, (label, statistic) in zip(axes, panels.items(), strict=True):
        _over_t(ax, scapes, statistic)
        ax.set_ylabel(label)
    return fig


def _over_t(
    ax: Axes,
    scapes: dict[float, transfer.Landscape],
    statistic: Callable[[transfer.Landscape, np.ndarray], float],
) -> None:
    """A statistic against t, with its interval over seeds; SP and µP are marked.

    Above: where it is infinite, the widest model diverged at that rate, and where it has no value.
    """
    values = {t: statistic(s, s.losses) for t, s in scapes.items()}
    known = {t: value for t, value in values.items() if np.isfinite(value)}
    ax.plot(list(known), list(known.values()), "o-", color="#444444", ms=4)
    for t in known:
        scape = scapes[t]

        def resampled(index: np.ndarray, scape: transfer.Landscape = scape) -> float:
            return statistic(scape, scape.losses[index])

        band = transfer.bootstrap(resampled, len(scape.losses))
        if band is not None and np.isfinite(band).all():
            ax.plot([t, t], band, color="#444444", lw=4, alpha=0.25, solid_capstyle="butt")
    ax.axhline(0, color="#999999", lw=0.8)
    for t, parametrization in ANCHORS.items():
        ax.axvline(t, ls=":", color=conventions.COLOR[parametrization])
    ax.set_xticks(list(values), [f"{t:g}" + _anchor(t, "\n{}") for t in values])
    ax.set_xlabel("t")
    infinite, missing = (
        np.array([t for t, value in values.items() if found(value)])
        for found in (np.isinf, np.isnan)
    )
    if len(infinite) or len(missing):
        style.strip(ax, [("#444444", infinite, missing)])
        handles, _ = style.legend_entries(ax, [ax])
        words = [text for text, at in ((INFINITE, infinite), (NO_VALUE, missing)) if len(at)]
        ax.legend(handles, words, fontsize=8, frameon=True, framealpha=1, edgecolor="white")


def still_at(runs: pd.DataFrame) -> Measured:
    """Distance from 1 of the t at which the fitted drift of the optimum is zero.

    The drift of each t whose optima lie inside the grid, on a least-squares line over t.
    """
    scapes = by_t(runs)
    seeds = len(next(iter(scapes.values())).losses)

    def crossing(index: np.ndarray) -> float:
        drift = {t: transfer.drift_per_doubling(s, s.losses[index]) for t, s in scapes.items()}
        known = {t: value for t, value in drift.items() if np.isfinite(value)}
        if len(known) < 3:
            return float("nan")
        slope, start = np.polyfit(list(known), list(known.values()), 1)
        return float(-start / slope)

    every = crossing(np.arange(seeds))
    drifts = ", ".join(f"{t:g}: {transfer.drift_per_doubling(s):.2f}" for t, s in scapes.items())
    low, high = transfer.bootstrap(lambda index: abs(crossing(index) - 1), seeds) or (None, None)
    return Measured(abs(every - 1), low, high, f"it is at {every:.2f}; drift by t {drifts}")


def widest_above_least(runs: pd.DataFrame) -> Measured:
    """Best loss of the widest model in µP minus the least one of any other t."""
    scapes = by_t(runs)

    def best(t: float, index: np.ndarray) -> float:
        return float(scapes[t].losses[index].mean(axis=0)[-1].min())

    def above_least(index: np.ndarray) -> float:
        return best(1.0, index) - min(best(t, index) for t in scapes if t != 1)

    seeds = len(scapes[1.0].losses)
    bests = ", ".join(f"{t:g}: {best(t, np.arange(seeds)):.3f}" for t in scapes)
    return landscapes.over_seeds(above_least, seeds, f"best loss of the widest by t {bests}")


def crossing(runs: pd.DataFrame) -> Measured:
    """The largest loss increase of µP to the next width, where the narrowest model trains.

    Infinite if a wider one diverges there.
    """

    def largest(scape: transfer.Landscape) -> float:
        trained = np.flatnonzero(np.isfinite(scape.losses[:, 0]).all(axis=0))
        return transfer.worst_widening(scape, int(trained[-1])) if len(trained) else float("nan")

    every = {t: largest(scape) for t, scape in by_t(runs).items()}
    note = "by t " + ", ".join(f"{t:g}: {value:.2f}" for t, value in every.items())
    return Measured(every[1.0], note=note)


def regret_above_least(runs: pd.DataFrame) -> Measured:
    """Regret of µP minus the least regret of any t."""
    scapes = by_t(runs)

    def above_least(index: np.ndarray) -> float:
        regrets = {t: transfer.regret(s, s.losses[index]) for t, s in scapes.items()}
        return regrets[1.0] - min(regrets.values())

    regrets = {t: transfer.regret(scape) for t, scape in scapes.items()}
    note = "regret by t " + ", ".join(f"{t:g}: {value:.3f}" for t, value in regrets.items())
    return landscapes.over_seeds(above_least, len(scapes[1.0].losses), note)
