"""Schematics: drawn by code alone, their tables are empty. Lengths are in units of the canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.analysis import conventions, coordinate_pictures, style

GRAY, DARK = "#777777", "#333333"
LARGE, SMALL = 7, 3  # hidden neurons of the two networks
CANDIDATES = np.linspace(-1, 1, 7)
LOSS_HEIGHT = 6.0
OPACITY = 0.8


def draw_fig2(empty: pd.DataFrame) -> Figure:
    """Tuning a large model itself, and µTransfer."""
    fig, ax = _canvas(86, 40, 8.6)
    ax.plot([33.5, 33.5], [1, 40], color="#cccccc", lw=0.8)

    sp = conventions.COLOR["sp"]
    ax.text(1, 38.5, "Tune the large model itself", color=sp, weight="bold", fontsize=10.5)
    _network(ax, 5, 23, LARGE, sp)
    _label(ax, 8.7, 13.2, "large model")
    _arrow(ax, (13.3, 23), (17.5, 23))
    _trials(ax, 25, 20, sp, 6.5)
    _label(ax, 25, 13.2, "candidates, each a\ntraining of the large model")
    _cost(ax, 1, 3.5, [2.6] * len(CANDIDATES) + [2.6], sp)

    mup = conventions.COLOR["mup"]
    ax.text(35.5, 38.5, "µTransfer", color=mup, weight="bold", fontsize=10.5)
    _network(ax, 38, 23, SMALL, mup)
    _label(ax, 41.7, 13.2, "the same model,\nnarrow, in µP")
    _arrow(ax, (46.3, 23), (50.5, 23))
    _trials(ax, 58, 20, mup, 3.5)
    _label(ax, 58, 13.2, "candidates, each a\ntraining of the narrow model")
    _arrow(ax, (65.5, 23), (74.5, 23), color=mup, lw=2)
    _label(ax, 70, 28.2, "copy the\nbest value", color=mup)
    _network(ax, 75.5, 23, LARGE, mup)
    _label(ax, 79.2, 13.2, "large model,\ntrained once")
    ax.plot([79.2, 79.2, 41.7, 41.7], [31.4, 33.6, 33.6, 30.2], color=GRAY, lw=1, ls="--")
    _arrow(ax, (41.7, 30.2), (41.7, 26.6), color=GRAY)
    _label(ax, 60, 35.9, "shrink the width", color=GRAY)
    _cost(ax, 35.5, 3.5, [1.1] * len(CANDIDATES) + [2.6], mup)
    return fig


def _network(ax: Axes, x: float, y: float, neurons: int, color: str) -> None:
    """Two hidden layers between an input and an output that do not grow."""
    layers = [2, neurons, neurons, 2]
    places = [
        [(x + 2.5 * i, y + 2.5 * (j - (count - 1) / 2)) for j in range(count)]
        for i, count in enumerate(layers)
    ]
    for before, after in pairwise(places):
        for a in before:
            for b in after:
                ax.plot(*zip(a, b, strict=True), color="#c8c8c8", lw=0.35, zorder=1)
    for i, layer in enumerate(places):
        fill = color if 0 < i < len(places) - 1 else GRAY
        ax.plot(*zip(*layer, strict=True), "o", ms=6, color=fill, mec="white", mew=0.5, zorder=2)


def _trials(ax: Axes, x: float, y: float, color: str, size: float) -> None:
    """A valley of the loss over a hyperparameter, one dot per candidate, the best one ringed."""
    half = 6.0
    _arrow(ax, (x - half - 0.8, y - 2), (x + half + 0.8, y - 2), color=GRAY)
    _arrow(ax, (x - half - 0.8, y - 2), (x - half - 0.8, y + LOSS_HEIGHT + 1.5), color=GRAY)
    ax.text(x, y - 2.5, "hyperparameter", fontsize=7, color=GRAY, ha="center", va="top")
    ax.text(x - half - 0.2, y + LOSS_HEIGHT + 1.2, "loss", fontsize=7, color=GRAY, va="top")
    line = np.linspace(-1, 1, 101)
    ax.plot(x + half * line, y + LOSS_HEIGHT * _loss(line), color=color, lw=1.2, zorder=1)
    heights = y + LOSS_HEIGHT * _loss(CANDIDATES)
    ax.plot(x + half * CANDIDATES, heights, "o", ms=size, color=color, mec="white", zorder=2)
    best = int(np.argmin(_loss(CANDIDATES)))
    ax.plot(
        x + half * CANDIDATES[best],
        heights[best],
        "o",
        ms=size + 5,
        color="none",
        mec=DARK,
        mew=1.1,
        zorder=3,
    )


def _loss(place: np.ndarray) -> np.ndarray:
    return np.asarray(0.85 * (place - CANDIDATES[4]) ** 2 / (1 + CANDIDATES[4]) ** 2)


def _cost(ax: Axes, x: float, y: float, sides: Sequence[float], color: str) -> None:
    """What is trained, as squares: the candidates, then the final model."""
    ax.text(x, y + 3.4, "compute: candidates + final training", fontsize=8, color=DARK)
    for place, side in enumerate(sides):
        last = place == len(sides) - 1
        if last:
            ax.text(x + 0.3, y + side / 2, "+", fontsize=9, va="center", ha="left")
            x += 2.2
        ax.add_patch(
            Rectangle((x, y), side, side, facecolor=color, alpha=0.9 if last else 0.45, lw=0)
        )
        x += side + 0.5


@dataclass(frozen=True)
class Matrix:
    """A weight as a rectangle.

    Args:
        name: written inside.
        rows, columns: fan-out and fan-in, names of `LENGTHS`.
        role: gives the colour.
        x, y: lower left corner.
        heads: by which of the two the heads divide it.
    """

    name: str
    rows: str
    columns: str
    role: str
    x: float
    y: float
    heads: str = ""


# One example of the ratios: only their being different matters.
LENGTHS = {
    "vocabulary": 13.0,
    "d_model": 8.0,
    "n_head · d_k": 6.0,
    "n_head · d_v": 9.0,
    "d_ffn": 16.0,
}
HEADS = 3
MATRICES = (
    Matrix("embedding", "d_model", "vocabulary", "input", 3.5, 22),
    Matrix("$W_Q$", "n_head · d_k", "d_model", "hidden", 25.5, 36, "rows"),
    Matrix("$W_K$", "n_head · d_k", "d_model", "hidden", 25.5, 23, "rows"),
    Matrix("$W_V$", "n_head · d_v", "d_model", "hidden", 25.5, 7.5, "rows"),
    Matrix("$W_O$", "d_model", "n_head · d_v", "hidden", 42, 9.5, "columns"),
    Matrix("$W_1$", "d_ffn", "d_model", "hidden", 63.5, 18),
    Matrix("$W_2$", "d_model", "d_ffn", "hidden", 78.5, 22),
    Matrix("readout", "vocabulary", "d_model", "output", 101.5, 19.5),
)


def draw_fig11(empty: pd.DataFrame) -> Figure:
    """The weights of a Transformer, each fan_out high and fan_in wide."""
    fig, ax = _canvas(111, 49, 9.2)
    for left, right, title in ((20.5, 56, "attention"), (59, 96, "feed-forward")):
        ax.add_patch(
            Rectangle(
                (left, 3.5), right - left, 41, facecolor="#f5f5f5", edgecolor="#dddddd", lw=0.8
            )
        )
        ax.text((left + right) / 2, 45.3, title, ha="center", fontsize=9.5, color=DARK)
    for matrix in MATRICES:
        _matrix(ax, matrix)
    for start, end in (
        ((16.7, 26), (20.4, 26)),
        ((55.9, 26), (59.1, 26)),
        ((95.8, 26), (99, 26)),
        ((33.9, 39), (40.2, 39)),  # queries and keys to the logits
        ((33.9, 26.5), (42.5, 34.6)),
        ((46.5, 34.6), (46.5, 30.6)),  # logits and values to the output
        ((33.9, 13), (41.5, 24.6)),
        ((46.5, 24.4), (46.5, 18)),
        ((71.8, 26), (75.6, 26)),
    ):
        _arrow(ax, start, end, color=GRAY)
    _label(ax, 46.5, 41.6, "$q^{\\top}k\\,/\\,d_k$ in µP,\nin each of the\nn_head heads")
    _label(ax, 46.5, 29.8, "softmax, then the\nweighted sum of v")
    colors = coordinate_pictures.ROLE_COLOR.values()
    handles = [Rectangle((0, 0), 1, 1, facecolor=color, alpha=OPACITY) for color in colors]
    labels = [
        "input weight: only fan_out grows",
        "hidden weight: both grow",
        "output weight: only fan_in grows",
    ]
    fig.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return fig


def _matrix(ax: Axes, matrix: Matrix) -> None:
    height, width = LENGTHS[matrix.rows], LENGTHS[matrix.columns]
    x, y, color = matrix.x, matrix.y, coordinate_pictures.ROLE_COLOR[matrix.role]
    ax.add_patch(Rectangle((x, y), width, height, facecolor=color, alpha=OPACITY, lw=0))
    for cut in range(1, HEADS):
        if matrix.heads == "rows":
            ax.plot([x, x + width], [y + cut * height / HEADS] * 2, color="white", lw=0.8)
        elif matrix.heads == "columns":
            ax.plot([x + cut * width / HEADS] * 2, [y, y + height], color="white", lw=0.8)
    middle = x + width / 2, y + height / 2
    ax.text(*middle, matrix.name, ha="center", va="center", color="white", fontsize=9)
    _label(ax, x + width / 2, y - 0.5, matrix.columns)
    ax.text(
        x - 0.5,
        y + height / 2,
        matrix.rows,
        rotation=90,
        ha="right",
        va="center",
        fontsize=8,
        color=DARK,
    )


def _canvas(width: float, height: float, inches: float) -> tuple[Figure, Axes]:
    """Axes of width by height units without frame or ticks, equal in both directions."""
    fig, ax = style.subplots(figsize=(inches, inches * height / width))
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.set_aspect("equal")
    ax.axis("off")
    return fig, ax


def _label(ax: Axes, x: float, y: float, text: str, **options: Any) -> None:
    options = {"fontsize": 8, "color": DARK, **options}
    ax.text(x, y, text, ha="center", va="top", **options)


def _arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str = DARK,
    lw: float = 1.1,
) -> None:
    ax.annotate("", xy=end, xytext=start, arrowprops={"arrowstyle": "->", "color": color, "lw": lw})
