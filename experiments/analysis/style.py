"""One look for all figures. No torch here: pictures are redrawn from the store alone."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import RcKeyType

from experiments.analysis import alt_text
from experiments.analysis.transfer import Landscape
from experiments.files import atomic_path

matplotlib.use("agg")  # pictures are files, whatever MPLBACKEND asks for
STYLE: dict[RcKeyType, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Bitstream Vera Sans", "Verdana"],  # of an SVG's readers
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
SIGNS_AN_INCH = 16  # of a line of the head or foot
LINE = 0.14  # inches
GRAY = "#555555"
STRIP_ROW = 0.045  # of a panel's height: a row of marks of divergence above it
DIVERGED = {"every": "diverged", "some": "diverged\n(some seeds)"}
SHOWN = "_mupkit_landscape"


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """`plt.subplots` in the project's style; also for drawing functions called on their own.

    Matplotlib's defaults come first: a matplotlibrc of the user's decides nothing.
    """
    matplotlib.rcdefaults()
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, **options)


def strip(ax: Axes, rows: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Marks of divergence above a panel, a row for each size that has any.

    Args:
        ax: the panel.
        rows: colour, values at which every seed diverged (filled), and some seeds (open).
    """
    if not rows:
        return
    band = ax.inset_axes((0, 1.012, 1, STRIP_ROW * len(rows)), sharex=ax)
    band.set(ylim=(len(rows) - 0.5, -0.5), facecolor="#f3f3f3")
    band.grid(False)
    band.spines[:].set_visible(False)
    band.tick_params(bottom=False, labelbottom=False, left=False, labelleft=False)
    for row, (color, every, some) in enumerate(rows):
        for label, places, fill in (("every", every, color), ("some", some, "white")):
            if len(places):
                height = np.full(len(places), row)
                band.plot(places, height, "X", ms=5.5, color=color, mfc=fill, mew=0.8, label=label)


@dataclass(frozen=True)
class Shown:
    """What `landscapes.curves` drew, for pictures that say more of it than curves can.

    Attributes:
        scape: the landscape.
        dimension: what the sizes are, in words.
        show: turns losses into what is drawn.
        colors: by size.
        names: of the sizes in a legend, where they are not their numbers.
        artists: `id` of each artist that shows it.
    """

    scape: Landscape
    dimension: str
    show: Callable[[Any], Any]
    colors: Mapping[int, str]
    names: Mapping[int, str]
    artists: frozenset[int]


def remember(ax: Axes, shown: Shown) -> None:
    """Say which landscape a panel shows."""
    setattr(ax, SHOWN, shown)


def landscape_of(ax: Axes) -> Shown | None:
    """The landscape that a panel shows, if it does."""
    return getattr(ax, SHOWN, None)


def legend(fig: Figure, ax: Axes, title: str) -> None:
    """The curves of one panel, and what the marks above all panels mean, beside them."""
    handles, labels = legend_entries(ax, fig.axes)
    fig.legend(
        handles, labels, title=title, loc="outside right center", fontsize=8, title_fontsize=8
    )


def legend_entries(ax: Axes, panels: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
    """Handles and labels of a panel's curves, and of the marks of divergence above `panels`."""
    handles, labels = ax.get_legend_handles_labels()
    marks = {
        line.get_label() for panel in panels for band in panel.child_axes for line in band.lines
    }
    for kind, text in DIVERGED.items():
        if kind in marks:
            fill = GRAY if kind == "every" else "white"
            handles.append(Line2D([], [], ls="", marker="X", ms=5.5, color=GRAY, mfc=fill))
            labels.append(text)
    return handles, labels


def header(fig: Figure, lines: Iterable[str]) -> None:
    """What is shown and what is held fixed, above the panels; long lines are broken."""
    text = "\n".join(_broken(fig, line) for line in lines if line)
    fig.set_figheight(fig.get_figheight() + LINE * (text.count("\n") + 1))
    fig.suptitle(text, fontsize=7.5, color=GRAY, x=0.01, ha="left")


def footer(fig: Figure, text: str) -> None:
    """What data, what scale, below the panels; long lines are broken."""
    fig.supxlabel(_broken(fig, text), fontsize=7.5, color=GRAY, x=0.01, ha="left")


def _broken(fig: Figure, text: str) -> str:
    """As many lines as the figure's width asks for; one ends at a dot between two parts."""
    whole = text.replace(" ", "\xa0").replace("·\xa0", "· ").replace(";\xa0", "; ")
    return textwrap.fill(whole, int(SIGNS_AN_INCH * fig.get_figwidth())).replace("\xa0", " ")


def log2_axis(ax: Axes, label: str) -> None:
    """Whole powers of two as ticks of the x axis, as many as there is room for."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True, min_n_ticks=1))


def save(fig: Figure, path: Path, title: str = "") -> None:
    """Write a figure as SVG or PNG, by the path's ending, without a date in it.

    With a title, a description of what is seen goes into it, too.
    """
    kind = path.suffix[1:]
    metadata: dict[str, str | None] = {"Date" if kind == "svg" else "Software": None}
    if title:
        metadata |= {"Title": title, alt_text.KEY: f"{title}. {alt_text.describe(fig)}".strip()}
    with atomic_path(path) as temporary:
        fig.savefig(temporary, format=kind, dpi=200, metadata=metadata)


def svg(fig: Figure) -> bytes:
    """A figure as SVG with its letters as paths, so that it looks the same everywhere."""
    found = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        fig.savefig(found, format="svg", metadata={"Date": None})
    return found.getvalue()
