"""Pictures and claims of the coordinate check. Pure functions of the tidy table, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import conventions, style
from experiments.analysis.exponents import exponent
from experiments.declare.claims import Measured

QUANTITIES = ("logits", "attention logits", "word embeddings")
ROWS = ("sp", "mup")


def draw_fig5(table: pd.DataFrame) -> Figure:
    """Change of coordinates against width, one curve per step; SP above, µP below."""
    fig, axes = style.subplots(2, 3, figsize=(8.6, 5.4), sharex=True, sharey="col")
    for row, parametrization in zip(axes, ROWS, strict=True):
        for ax, quantity in zip(row, QUANTITIES, strict=True):
            _curves(ax, _part(table, parametrization, quantity))
        row[0].set_ylabel(f"{conventions.SHORT[parametrization]}: size of the change")
        row[0].yaxis.label.set_color(conventions.COLOR[parametrization])
    for ax, quantity in zip(axes[0], QUANTITIES, strict=True):
        ax.set_title(quantity)
    _finish(fig, axes[1], axes[0, 0])
    return fig


def draw_post_fig1(table: pd.DataFrame) -> Figure:
    """Change of the network's output against width, one curve per step; SP left, µP right."""
    fig, axes = style.subplots(1, 2, figsize=(7.6, 3.6), sharex=True, sharey=True)
    for ax, parametrization in zip(axes, ROWS, strict=True):
        _curves(ax, _part(table, parametrization, "logits"))
        ax.set_title(conventions.NAME[parametrization], color=conventions.COLOR[parametrization])
    axes[0].set_ylabel("size of the output's change")
    _finish(fig, axes, axes[0])
    return fig


def _part(table: pd.DataFrame, parametrization: str, quantity: str) -> pd.DataFrame:
    of = (table["parametrization"] == parametrization) & (table["quantity"] == quantity)
    return table[of & (table["step"] > 0)]


def _curves(ax: Axes, part: pd.DataFrame) -> None:
    """Mean over seeds on log2 axes, with the range."""
    steps = sorted(part["step"].unique())
    colors = plt.get_cmap("plasma")(np.linspace(0.05, 0.8, len(steps)))
    for step, color in zip(steps, colors, strict=True):
        sizes = part[part["step"] == step].pivot(index="width", columns="seed", values="change")
        if (sizes > 0).all(axis=None):
            ax.plot(sizes.index, sizes.mean(axis=1), ".-", color=color, label=f"t = {step}")
            low, high = sizes.min(axis=1), sizes.max(axis=1)
            ax.fill_between(sizes.index, low, high, color=color, alpha=0.2, lw=0)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.minorticks_off()


def _finish(fig: Figure, bottom: np.ndarray, labelled: Axes) -> None:
    for ax in bottom:
        ax.set_xlabel("width (d_model)")
    handles, labels = labelled.get_legend_handles_labels()
    fig.legend(handles, labels, title="Adam steps", loc="outside right center", fontsize=8)


def change_exponents(
    table: pd.DataFrame, parametrization: str, quantities: Sequence[str] = QUANTITIES
) -> dict[str, Measured]:
    """The power of width with which each quantity's change grows, after each step.

    NaN, without an interval, where a model did not move or blew up.
    """
    found = {}
    for quantity in quantities:
        for step, rows in _part(table, parametrization, quantity).groupby("step"):
            sizes = rows.pivot(index="width", columns="seed", values="change")
            moved = (np.isfinite(sizes) & (sizes > 0)).all(axis=None)
            one = exponent(sizes) if moved else Measured(float("nan"))
            found[f"{quantity}, step {step}"] = one
    return found


def least_exponent(table: pd.DataFrame, parametrization: str, quantity: str) -> Measured:
    """The least power of width with which a quantity's change grows after any of the steps."""
    return _first(
        change_exponents(table, parametrization, (quantity,)),
        lambda value, low, high: (value, low, high),
        lambda value, low, high: low,
    )


def farthest_exponent(
    table: pd.DataFrame, parametrization: str, quantities: Sequence[str] = QUANTITIES
) -> Measured:
    """Distance from 0 of the power that is farthest from it, of any quantity after any step."""

    def distance(value: float, low: float, high: float) -> tuple[float, float, float]:
        nearer, farther = sorted((abs(low), abs(high)))
        return abs(value), (0.0 if low <= 0 <= high else nearer), farther

    found = change_exponents(table, parametrization, quantities)
    return _first(found, distance, lambda value, low, high: -high)


def _first(
    found: dict[str, Measured],
    measure: Callable[[float, float, float], tuple[float, float, float]],
    order: Callable[[float, float, float], float],
) -> Measured:
    """The measure of all exponents that comes first by an order; NaN if one has no interval."""
    note = ", ".join(f"{name}: {m.value:+.3f}" for name, m in found.items())
    measured = []
    for m in found.values():
        if m.low is None or m.high is None:
            return Measured(float("nan"), note=f"{note}; one has no interval")
        measured.append(measure(m.value, m.low, m.high))
    value, low, high = min(measured, key=lambda ends: order(*ends))
    return Measured(value, low, high, note)
