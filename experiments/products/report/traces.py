"""Traces of plotly that show what Matplotlib drew; its texts, numbers and colours in a page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
from matplotlib import colors as mpl_colors
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection, QuadMesh
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Transform

DIGITS = 5  # of a number in the page
DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
SYMBOLS = {"o": "circle", ".": "circle", "x": "x-thin", "+": "cross-thin", "s": "square"}
SYMBOLS |= {"^": "triangle-up", "v": "triangle-down", "D": "diamond", "d": "diamond", "*": "star"}
SYMBOLS |= {"X": "x"}
TEXT_SIZE, LINE_SIZE, MARK_SIZE, SHIFT = 1.25, 1.2, 1.4, 1.3  # pixels of a point
SMALLEST = 10  # pixels of a letter
HOVER = "%{y}<br>at %{x}<extra>%{fullData.name}</extra>"
VERTICAL = {"baseline": "bottom", "center_baseline": "middle", "center": "middle"}
Options = dict[str, Any]
"""Options of a trace, `kind` (its class) and `in_legend` among them."""


class NotShownError(ValueError):
    """A picture has something that is not converted, so that it is shown as it is."""


# Artists


def converted(artist: Artist, ax: Axes, labels: Mapping[str, str]) -> Iterator[Options]:
    """The traces that show an artist.

    Args:
        artist: of Matplotlib.
        ax: its axes.
        labels: of curves by their colour; a band or mark of that colour belongs to the curve.

    Raises:
        NotShownError: it is of a kind that is not converted.
    """
    if isinstance(artist, Line2D):
        yield _line(artist, ax, labels)
    elif isinstance(artist, QuadMesh):
        corners = cast(np.ndarray, artist.get_coordinates())
        x, y = corners[0, :, 0], corners[:, 0, 1]
        yield _heat(artist, np.asarray(artist.get_array()).reshape(len(y) - 1, -1), x, y)
    elif isinstance(artist, AxesImage):
        yield _image(artist)
    elif isinstance(artist, PathCollection):
        x, y = np.asarray(artist.get_offsets()).T
        shade = color(artist.get_facecolor()[0])
        yield marks(x, y, shade, labels.get(shade, ""))
    elif isinstance(artist, LineCollection):
        gap = np.full((1, 2), np.nan)
        x, y = np.concatenate([part for path in artist.get_segments() for part in (path, gap)]).T
        shade = color(artist.get_color()[0])
        yield curve(x, y, {"color": shade, "width": 1.5}, labels.get(shade, ""))
    elif isinstance(artist, PolyCollection):
        rgba = mpl_colors.to_rgba_array(cast(Any, artist.get_facecolor()))[0]
        for path in artist.get_paths():
            yield area(path.vertices, color(rgba), rgba[3], labels.get(color(rgba), ""))
    elif isinstance(artist, Rectangle):
        corners = artist.get_patch_transform().transform(artist.get_path().vertices)
        rgba = mpl_colors.to_rgba(artist.get_facecolor())
        x, y = corners.T
        places = np.column_stack(_places(x, y, artist.get_data_transform(), ax))
        yield area(places, color(rgba), rgba[3], labels.get(color(rgba), ""))
    else:
        raise NotShownError(f"it has a {type(artist).__name__}")


def _line(line: Line2D, ax: Axes, labels: Mapping[str, str]) -> Options:
    x, y = (np.asarray(values, float) for values in line.get_data(orig=False))
    x, y = _places(x, y, line.get_transform(), ax)
    shade, label = color(line.get_color()), str(line.get_label())
    label = labels.get(shade, "") if label.startswith("_") else label
    style, symbol = str(line.get_linestyle()), SYMBOLS.get(str(line.get_marker()))
    drawn = {
        "color": shade,
        "width": round(float(line.get_linewidth()) * LINE_SIZE, 1),
        "dash": DASHES.get(style, "solid"),
    }
    if symbol is None:
        return curve(x, y, drawn, label)
    hollow = mpl_colors.same_color(cast(Any, line.get_markerfacecolor()), "white")
    shade = color(line.get_markeredgecolor()) if hollow else shade
    found = marks(x, y, shade, label, symbol, float(line.get_markersize()), hollow=hollow)
    if style in DASHES and len(x) > 1:
        found |= {"mode": "lines+markers", "line": drawn, "in_legend": True}
    return found


def _places(
    x: np.ndarray, y: np.ndarray, transform: Transform, ax: Axes
) -> tuple[np.ndarray, np.ndarray]:
    """Places in the data of what stands in the data or at shares of the axes."""
    kind = _of_axes(transform, ax)
    x = _of_share(x, ax.get_xlim(), ax.get_xscale()) if kind[0] == "axes fraction" else x
    y = _of_share(y, ax.get_ylim(), ax.get_yscale()) if kind[1] == "axes fraction" else y
    return x, y


def curve(x: Any, y: Any, line: Options, label: str) -> Options:
    """A line of this look, named in the legend."""
    return {
        "kind": go.Scatter,
        "x": short(x),
        "y": short(y),
        "mode": "lines",
        "line": line,
        "name": markup(label),
        "hovertemplate": HOVER,
    }


def marks(
    x: Any,
    y: Any,
    shade: str,
    label: str,
    symbol: str = "circle",
    size: float = 6,
    *,
    hollow: bool = False,
) -> Options:
    """Marks that belong to the curve `label`; their size is in points."""
    thin = symbol.endswith("-thin")
    edge = {"color": shade, "width": 1.6} if thin or hollow else {"color": "white", "width": 0.5}
    fill = "white" if hollow else shade
    return {
        "kind": go.Scatter,
        "x": short(x),
        "y": short(y),
        "mode": "markers",
        "marker": {
            "color": fill,
            "symbol": symbol,
            "size": round(size * MARK_SIZE, 1),
            "line": edge,
        },
        "name": markup(label),
        "in_legend": False,
        "hovertemplate": HOVER,
    }


def area(corners: Any, shade: str, alpha: float, label: str) -> Options:
    """A filled polygon that belongs to the curve `label`."""
    x, y = np.asarray(corners).T
    red, green, blue = (round(255 * part) for part in mpl_colors.to_rgb(shade))
    return {
        "kind": go.Scatter,
        "x": short(x),
        "y": short(y),
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": f"rgba({red},{green},{blue},{alpha:.2f})",
        "hoverinfo": "skip",
        "name": markup(label),
        "in_legend": False,
    }


def _image(image: AxesImage) -> Options:
    values = np.asarray(image.get_array())
    if values.ndim != 2:
        raise NotShownError("it has a photograph")
    x0, x1, y0, y1 = image.get_extent()
    rows = values if image.origin == "lower" else values[::-1]  # from the lowest edge up
    low, high = (y0, y1) if image.origin == "lower" else (y1, y0)
    if low > high:
        rows, low, high = rows[::-1], high, low
    x, y = np.linspace(x0, x1, rows.shape[1] + 1), np.linspace(low, high, rows.shape[0] + 1)
    return _heat(image, rows, x, y)


def _heat(artist: QuadMesh | AxesImage, values: Any, x: Any, y: Any) -> Options:
    low, high = artist.get_clim()
    steps = np.linspace(0, 1, 9)
    return {
        "kind": go.Heatmap,
        "x": short(x),
        "y": short(y),
        "z": [short(row) for row in values],
        "zmin": low,
        "zmax": high,
        "colorscale": [[float(step), color(artist.get_cmap()(step))] for step in steps],
        "showscale": False,
        "hoverinfo": "skip",
    }


# Texts


def note(text: Text, ax: Axes, axis: str) -> Options:
    """A text inside a panel, as an annotation of plotly.

    Args:
        text: of Matplotlib.
        ax: its axes.
        axis: their number, as plotly counts.

    Raises:
        NotShownError: it has an arrow, or stands at a place that is not of the axes.
    """
    (x, y), shift = text.get_position(), (0.0, 0.0)
    if isinstance(text, Annotation):
        if text.arrow_patch is not None:
            raise NotShownError("it has an arrow")
        coords = text.xycoords
        kind = coords if isinstance(coords, tuple) else (coords, coords)
        if text.anncoords == "offset points":
            shift, (x, y) = (float(x), float(y)), text.xy
    else:
        kind = _of_axes(text.get_transform(), ax)
    return {
        "text": markup(text.get_text()),
        "font": {
            "size": max(SMALLEST, round(float(text.get_fontsize()) * TEXT_SIZE)),
            "color": color(text.get_color()),
        },
        "showarrow": False,
        "xref": _reference("x", axis, kind[0]),
        "yref": _reference("y", axis, kind[1]),
        "x": _place(x, ax.get_xscale(), kind[0]),
        "y": _place(y, ax.get_yscale(), kind[1]),
        "xshift": shift[0] * SHIFT,
        "yshift": shift[1] * SHIFT,
        "xanchor": text.get_horizontalalignment(),
        "yanchor": VERTICAL.get(text.get_verticalalignment(), text.get_verticalalignment()),
        "align": "left",
        "textangle": -float(text.get_rotation()),
    }


def _reference(letter: str, axis: str, kind: Any) -> str:
    if kind not in ("data", "axes fraction"):
        raise NotShownError(f"it has a text at {kind}")
    return f"{letter}{axis} domain" if kind == "axes fraction" else f"{letter}{axis}"


def _place(value: Any, scale: str, kind: Any) -> float:
    log = kind == "data" and scale == "log"
    return round(float(np.log10(value) if log else value), DIGITS)


def _of_axes(transform: Transform, ax: Axes) -> tuple[str, str]:
    """What x and y of an artist are: of the data, or shares of the axes."""
    kinds = (
        (ax.transData, ("data", "data")),
        (ax.transAxes, ("axes fraction", "axes fraction")),
        (ax.get_xaxis_transform(), ("data", "axes fraction")),
        (ax.get_xaxis_transform("grid"), ("data", "axes fraction")),
        (ax.get_yaxis_transform(), ("axes fraction", "data")),
        (ax.get_yaxis_transform("grid"), ("axes fraction", "data")),
    )
    for known, kind in kinds:
        if transform == known:
            return kind
    raise NotShownError("it has something at a place that is not of its axes")


def markup(text: str) -> str:
    """A text of Matplotlib as plotly's: its mathematics as far as the pictures use them."""
    text = html.escape(text, quote=False)
    text = re.sub(r"\$|\\mathdefault|\\mathrm", "", text)
    text = re.sub(r"\^\{?\\top\}?", "ᵀ", text)
    text = re.sub(r"\^\{([^{}]*)\}", r"<sup>\1</sup>", text)
    text = re.sub(r"_\{([^{}]*)\}", r"<sub>\1</sub>", text)
    text = re.sub(r"\\[, ]", "\u2009", text)
    return re.sub(r"[{}]", "", text).replace("\n", "<br>")


# Numbers and colours


def short(values: Iterable[Any]) -> list[float | None]:
    """Numbers with as many digits as a page needs; None where there is none."""
    found = (float(value) for value in np.asarray(list(values), float).ravel())
    return [float(f"{x:.{DIGITS}g}") if np.isfinite(x) else None for x in found]


def color(value: Any) -> str:
    """A colour of Matplotlib, such as "#2a7f62"."""
    return mpl_colors.to_hex(value)


def _of_share(share: np.ndarray, limits: tuple[float, float], scale: str) -> np.ndarray:
    """Places on an axis of shares of its length."""
    if scale == "log":
        low, high = np.log10(limits)
        return np.asarray(10.0 ** (low + share * (high - low)))
    return limits[0] + share * (limits[1] - limits[0])
