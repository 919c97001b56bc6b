"""One look for all figures. No torch here: pictures are redrawn from the store alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.files import atomic_path

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.hashsalt": "mupkit",  # the same data give the same file
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}
COLOR = {"sp": "#c44e52", "mup": "#2a7f62"}
NAME = {"sp": "Standard parametrization (SP)", "mup": "Maximal update parametrization (µP)"}


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """`plt.subplots` in the project's style; also for drawing functions called on their own."""
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, **options)


def width_colors(widths: Sequence[int]) -> dict[int, Any]:
    """A colour for each width, dark for wide, from one map in all figures."""
    shades = np.linspace(0.85, 0.1, len(widths))
    return {w: plt.get_cmap("viridis")(s) for w, s in zip(sorted(widths), shades, strict=True)}


def footer(fig: Figure, text: str) -> None:
    """A line below the panels: what data, what scale."""
    fig.supxlabel(text, fontsize=7.5, color="#555555", x=0.01, ha="left")


def log2_axis(ax: Axes, label: str) -> None:
    """Whole powers of two as ticks of the x axis."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(matplotlib.ticker.MultipleLocator(1))


def save(fig: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the path's ending, without a date in it."""
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with atomic_path(path) as temporary:
        fig.savefig(temporary, format=kind, dpi=200, metadata=metadata)
