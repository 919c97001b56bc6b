"""One look for all figures. No torch here: pictures are redrawn from the store alone."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.lines
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

from experiments.analysis.transfer import Landscape
from experiments.files import atomic_path, write_atomically

matplotlib.use("agg")  # pictures are files, whatever MPLBACKEND asks for
STYLE: dict[RcKeyType, Any] = {
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
SIGNS_AN_INCH = 16  # of a foot line
NEXT_CROSS = 0.03  # of a panel's height, from the mark of a divergence to one at the same place
SLOW = 1.5  # frames per second, which may be a fraction whatever Matplotlib's stubs say
ICONS = {
    "minus": "&minus;",
    "fast-backward": "|&#9664;",
    "step-backward": "&#9664;&#9664;",
    "play fa-flip-horizontal": "&#9664;",
    "pause": "||",
    "play": "&#9654;",
    "step-forward": "&#9654;&#9654;",
    "fast-forward": "&#9654;|",
    "plus": "+",
}
SHOWN = "_mupkit_landscape"
COLOR = {"sp": "#c44e52", "mup": "#2a7f62"}
NAME = {"sp": "Standard parametrization (SP)", "mup": "Maximal update parametrization (µP)"}


def subplots(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """`plt.subplots` in the project's style; also for drawing functions called on their own.

    Matplotlib's defaults come first: a matplotlibrc of the user's decides nothing.
    """
    matplotlib.rcdefaults()
    plt.rcParams.update(STYLE)
    return plt.subplots(rows, columns, **options)


def width_colors(widths: Sequence[int]) -> dict[int, tuple[float, float, float, float]]:
    """A colour for each width, dark for wide, from one map in all figures."""
    shades = np.linspace(0.85, 0.1, len(widths))
    return {w: plt.get_cmap("viridis")(s) for w, s in zip(sorted(widths), shades, strict=True)}


@dataclass(frozen=True)
class Shown:
    """What `landscapes.curves` drew, for pictures that say more of it than curves can.

    Attributes:
        scape: the landscape.
        show: turns losses into what is drawn.
        colors: by size.
        artists: `id` of each artist that shows it.
    """

    scape: Landscape
    show: Callable[[Any], Any]
    colors: Mapping[Any, Any]
    artists: frozenset[int]


def remember(ax: Axes, shown: Shown) -> None:
    """Say which landscape a panel shows."""
    setattr(ax, SHOWN, shown)


def landscape_of(ax: Axes) -> Shown | None:
    """The landscape that a panel shows, if it does."""
    return getattr(ax, SHOWN, None)


def legend(fig: Figure, ax: Axes, title: str) -> None:
    """The curves of one panel beside all panels."""
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(
        handles, labels, title=title, loc="outside right center", fontsize=8, title_fontsize=8
    )


def footer(fig: Figure, text: str) -> None:
    """What data, what scale, below the panels; as many lines as the figure's width asks for.

    A line ends at a dot between two of the text's parts.
    """
    whole = text.replace(" ", "\xa0").replace("·\xa0", "· ")
    text = textwrap.fill(whole, int(SIGNS_AN_INCH * fig.get_figwidth())).replace("\xa0", " ")
    fig.supxlabel(text, fontsize=7.5, color="#555555", x=0.01, ha="left")


def log2_axis(ax: Axes, label: str) -> None:
    """Whole powers of two as ticks of the x axis, as many as there is room for."""
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(8, integer=True, min_n_ticks=1))


def save(fig: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the path's ending, without a date in it."""
    kind = path.suffix[1:]
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    with atomic_path(path) as temporary:
        fig.savefig(temporary, format=kind, dpi=200, metadata=metadata)


def svg(fig: Figure) -> bytes:
    """A figure as SVG with its letters as paths, so that it looks the same everywhere."""
    found = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path"}):
        fig.savefig(found, format="svg", metadata={"Date": None})
    return found.getvalue()


def save_animation(animation: FuncAnimation, title: str, caption: str, path: Path) -> None:
    """Write an animation as path.gif and as path.html, a page of its own with a slider."""
    with atomic_path(path.with_suffix(".gif")) as temporary:
        animation.save(temporary, writer=PillowWriter(fps=SLOW), dpi=100)  # type: ignore[arg-type]
    with matplotlib.rc_context({"svg.fonttype": "path", "animation.embed_limit": 50}):
        player = animation.to_jshtml(fps=SLOW, default_mode="reflect")  # type: ignore[arg-type]
    player = re.sub(r"<link[^>]*>", "", player)  # it loads icons from the net; signs replace them
    for icon, sign in ICONS.items():
        player = player.replace(f'<i class="fa fa-{icon}"></i>', sign)
    page = (
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{caption}</p>{player}</html>"
    )
    write_atomically(path.with_suffix(".html"), page.encode())
