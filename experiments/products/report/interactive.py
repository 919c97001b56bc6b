"""An interactive picture from the one that Matplotlib draws, so that both show the same numbers.

The drawing functions stay the only ones that read the tidy tables. A panel that shows a landscape
(`style.landscape_of`) knows more than its curves: what each seed gave, and what a value costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from experiments.analysis import style
from experiments.products.report.traces import (
    NotShownError,
    Options,
    color,
    converted,
    curve,
    marks,
    markup,
    note,
    short,
)
from experiments.products.report.views import (
    COST,
    EXCESS,
    LOSS,
    TITLES,
    VIEWS,
    View,
    divergence,
    views,
)

PIXELS = 96  # an inch
NARROWEST = 0.8  # of the picture's own width; a narrower screen scrolls it
TOP, BOTTOM = 46, 8  # pixels above and below the panels
NEAR = 0.02  # of the picture: axes that are as high as that are in line
COMPARED = {"color": "#888888", "width": 1.5, "dash": "dot"}


@dataclass(frozen=True)
class Panel:
    """A panel and what is in it.

    Attributes:
        ax: of Matplotlib.
        axis: "" for the first, "2" for the second, ... as plotly numbers axes.
        legend: that names its curves, by plotly's name; "" for none.
        views: of the landscape that it shows; empty if it shows none.
        above: the panel whose divergences it marks, if it does.
    """

    ax: Axes
    axis: str
    legend: str
    views: Mapping[int, View]
    above: Axes | None = None


@dataclass
class Drawing:
    """The traces, each with the view that it belongs to (None: all), and what stands beside them.

    Attributes:
        traces: of plotly.
        views: of each trace.
        titles: of panels, as annotations.
        notes: other texts in panels, which belong to the losses.
        named: (view, legend, label) that stand in a legend.
    """

    traces: list[Any] = field(default_factory=list)
    views: list[int | None] = field(default_factory=list)
    titles: list[Options] = field(default_factory=list)
    notes: list[Options] = field(default_factory=list)
    named: set[tuple[int | None, str, str]] = field(default_factory=set)

    def add(self, panel: Panel, options: Options, view: int | None = None) -> None:
        """A trace of a panel; the first one of its name stands in the legend for all."""
        rest = dict(options)
        kind, in_legend, label = rest.pop("kind"), rest.pop("in_legend", True), rest.get("name", "")
        place = (view, panel.legend, label)
        if label and panel.legend:
            rest |= {"legend": panel.legend, "legendgroup": f"{panel.legend} {label}"}
            rest["showlegend"] = in_legend and place not in self.named
            if in_legend:
                self.named.add(place)
        else:
            rest["showlegend"] = False
        self.traces.append(
            kind(
                xaxis=f"x{panel.axis}", yaxis=f"y{panel.axis}", visible=view in (None, LOSS), **rest
            )
        )
        self.views.append(view)


def interactive(picture: Figure, compared: Figure | None = None) -> go.Figure:
    """The interactive picture.

    Args:
        picture: of Matplotlib, as a drawing function returns it.
        compared: the same picture of other results, which is laid over it, gray and dotted.

    Raises:
        NotShownError: the picture has what is not converted: a schematic, for example.
    """
    panels, legends = _panels(picture)
    drawing = Drawing()
    layout: dict[str, Any] = {name: _legend(legend, picture) for name, legend in legends.items()}
    for panel in panels:
        layout |= _axes(panel, panels)
        _fill(drawing, panel)
    if compared is not None:
        _lay_over(drawing, panels, compared)
    if any(panel.views for panel in panels):
        layout["updatemenus"] = [_buttons(drawing, panels, layout)]
    width, height = (float(inches) * PIXELS for inches in picture.get_size_inches())
    fig = go.Figure(drawing.traces)
    fig.update_layout(
        height=round(height) + TOP + BOTTOM,
        margin={"l": 0, "r": 0, "t": TOP, "b": BOTTOM},
        template="plotly_white",
        hovermode="closest",
        font={"family": "system-ui, sans-serif", "size": 12},
        annotations=[*drawing.titles, *drawing.notes],
        meta={"least": round(NARROWEST * width)},
        **layout,
    )
    return fig


# Panels, axes, legends


def _panels(picture: Figure) -> tuple[list[Panel], dict[str, Legend]]:
    """The panels, and the legends by plotly's names."""
    picture.draw_without_rendering()  # places the axes and makes the ticks
    if not picture.axes or any(not ax.axison for ax in picture.axes):
        raise NotShownError("it has no axes")
    if any(ax.get_label() == "<colorbar>" for ax in picture.axes):
        raise NotShownError("it has a bar of colours")
    own = {ax: legend for ax in picture.axes if (legend := ax.get_legend()) is not None}
    found = [*own.values(), *picture.legends]
    legends = {f"legend{i + 1 if i else ''}": legend for i, legend in enumerate(found)}
    names = {id(legend): name for name, legend in legends.items()}
    panels: list[Panel] = []
    for ax in picture.axes:
        in_line = [legend for other, legend in own.items() if _in_line(ax, other)]
        near = own.get(ax) or next(iter([*in_line, *picture.legends]), None)
        name = "" if near is None else names[id(near)]
        shown, found_views = style.landscape_of(ax), {}
        if shown is not None:
            shade = color(ax.title.get_color())
            found_views = views(shown, ax.get_ylim(), _ticks(ax.xaxis), shade)
        panels.append(Panel(ax, _number(len(panels)), name, found_views))
        for band in cast(list[Axes], ax.child_axes):
            panels.append(Panel(band, _number(len(panels)), name, {}, ax))
    return panels, legends


def _number(count: int) -> str:
    """Plotly's number of the axes that `count` others come before."""
    return str(count + 1) if count else ""


def _in_line(one: Axes, other: Axes) -> bool:
    return bool(abs(one.get_position().y0 - other.get_position().y0) < NEAR)


def _axes(panel: Panel, panels: Sequence[Panel]) -> dict[str, Any]:
    ax, box = panel.ax, panel.ax.get_position()
    found = {
        "x": _axis(ax, "x", (box.x0, box.x1), f"y{panel.axis}"),
        "y": _axis(ax, "y", (box.y0, box.y1), f"x{panel.axis}"),
    }
    for letter, options in found.items():
        first = next(p for p in panels if p is panel or _shared(letter, p, panel))
        if first is not panel:
            options["matches"] = f"{letter}{first.axis}"
        if panel.above is not None:
            options |= {"showticklabels": False, "ticks": "", "showline": False, "showgrid": False}
    return {f"{letter}axis{panel.axis}": options for letter, options in found.items()}


def _shared(letter: str, one: Panel, other: Panel) -> bool:
    return bool(getattr(one.ax, f"get_shared_{letter}_axes")().joined(one.ax, other.ax))


def _axis(ax: Axes, letter: str, domain: tuple[float, float], anchor: str) -> dict[str, Any]:
    """Title, range, scale and ticks of an axis."""
    axis = getattr(ax, f"{letter}axis")
    if axis.get_scale() not in ("linear", "log"):
        raise NotShownError(f"its {letter} axis is {axis.get_scale()}")
    log = axis.get_scale() == "log"
    ends = [float(end) for end in getattr(ax, f"get_{letter}lim")()]
    shown = {place: text for place, text in _ticks(axis).items() if min(ends) <= place <= max(ends)}
    side = "labelleft" if letter == "y" else "labelbottom"
    labelled = axis.get_tick_params().get(side, True)
    labels = axis.get_ticklabels()
    tilted = bool(labels and labels[0].get_rotation())
    return {
        "domain": [round(float(end), 4) for end in domain],
        "anchor": anchor,
        "title": {"text": markup(axis.get_label_text()), "standoff": 4, "font": {"size": 12}},
        "type": "log" if log else "linear",
        "range": short(np.log10(ends) if log else ends),
        "tickmode": "array",
        "tickvals": short(shown),
        "ticktext": [text if labelled else "" for text in shown.values()],
        "tickangle": -60 if tilted else 0,
        "tickfont": {"size": 10 if tilted else 11},
        "zeroline": False,
        "gridcolor": "#e6e6e6",
        "linecolor": "#999999",
        "showline": True,
        "ticks": "outside",
        "ticklen": 3,
    }


def _ticks(axis: Any) -> dict[float, str]:
    """The text at each place of a tick, also where the next panel's stand for it."""
    places = [float(place) for place in axis.get_ticklocs()]
    texts = axis.get_major_formatter().format_ticks(places)
    return dict(zip(places, map(markup, texts), strict=True))


def _legend(legend: Legend, picture: Figure) -> dict[str, Any]:
    box = legend.get_window_extent().transformed(picture.transFigure.inverted())
    return {
        "x": round(float(box.x0), 4),
        "y": round(float(box.y1), 4),
        "xanchor": "left",
        "yanchor": "top",
        "title": {"text": markup(legend.get_title().get_text()), "font": {"size": 12}},
        "font": {"size": 11},
        "bgcolor": "rgba(255,255,255,0.6)",
        "tracegroupgap": 0,
    }


# What is in a panel


def _fill(drawing: Drawing, panel: Panel) -> None:
    ax = panel.ax
    drawing.titles += _titles(ax)
    for view, found in panel.views.items():
        for options in found.traces:
            drawing.add(panel, options, view)
    shown = style.landscape_of(ax)
    if panel.above is not None:
        _fill_band(drawing, panel, panel.above)
        return
    labels = _labels(ax)
    parts: list[Artist] = [*ax.collections, *ax.lines, *ax.patches, *ax.images]
    if len(parts) + len(ax.texts) != len(_children(ax)):
        raise NotShownError("it has what is neither line, area, patch, image nor text")
    for artist in parts:
        if artist.get_visible() and (shown is None or id(artist) not in shown.artists):
            for options in converted(artist, ax, labels):
                drawing.add(panel, options, LOSS if panel.views else None)
    for text in ax.texts:
        if text.get_text() or getattr(text, "arrow_patch", None) is not None:
            drawing.notes.append(note(text, ax, panel.axis))


def _labels(ax: Axes) -> dict[str, str]:
    """What the curves of axes are called, by their colour."""
    return {
        color(line.get_color()): str(line.get_label())
        for line in ax.lines
        if not str(line.get_label()).startswith("_")
    }


def _fill_band(drawing: Drawing, panel: Panel, above: Axes) -> None:
    """Marks of divergence above a panel (`style.strip`)."""
    labels, shown = _labels(above), style.landscape_of(above)
    for line in panel.ax.lines:
        shade, some = color(line.get_color()), line.get_label() == "some"
        x, y = (np.asarray(values, float) for values in line.get_data(orig=False))
        options = marks(x, y, shade, labels.get(shade, ""), "x", 5.5, hollow=some)
        if shown is None:
            options["hovertemplate"] = "%{x}<extra>%{fullData.name}</extra>"
            drawing.add(panel, options)
            continue
        options["customdata"] = [divergence(shown, shade, place) for place in x]
        options["hovertemplate"] = "%{customdata}<br>at %{x}<extra>%{fullData.name}</extra>"
        for view in (LOSS, EXCESS):
            drawing.add(panel, options, view)


def _children(ax: Axes) -> list[Artist]:
    """What was drawn in axes: neither frame, axis, legend nor title."""
    frame = (ax.patch, ax.xaxis, ax.yaxis, ax.get_legend(), *ax.spines.values(), *ax.child_axes)
    return [
        artist
        for artist in ax.get_children()
        if artist not in frame and (not isinstance(artist, Text) or artist in ax.texts)
    ]


def _titles(ax: Axes) -> list[Options]:
    """The titles in the middle and at the left, above the panel and what stands above it."""
    places = [part.get_position() for part in (ax, *ax.child_axes)]
    left, right = places[0].x0, places[0].x1
    return [
        {
            "text": f"<b>{markup(text)}</b>",
            "font": {"size": 13, "color": color(ax.title.get_color())},
            "showarrow": False,
            "xref": "paper",
            "yref": "paper",
            "x": round(float(left + share * (right - left)), 4),
            "y": round(float(max(place.y1 for place in places)), 4),
            "xanchor": anchor,
            "yanchor": "bottom",
        }
        for anchor, share in (("center", 0.5), ("left", 0.0))
        if (text := ax.get_title(anchor))  # type: ignore[arg-type]
    ]


def _lay_over(drawing: Drawing, panels: Sequence[Panel], compared: Figure) -> None:
    """The curves of other results under the same names, if they fill as many panels."""
    main = [panel for panel in panels if panel.above is None]
    if len(compared.axes) != len(main):
        return
    for panel, ax in zip(main, compared.axes, strict=True):
        for line in ax.lines:
            if line.get_transform() == ax.transData and not str(line.get_label()).startswith("_"):
                x, y = line.get_data(orig=False)
                options = curve(x, y, COMPARED, str(line.get_label()))
                options |= {"in_legend": False, "hovertemplate": "compared: %{y}<br>at %{x}"}
                drawing.add(panel, options, LOSS if panel.views else None)


# Buttons


def _buttons(
    drawing: Drawing, panels: Sequence[Panel], layout: Mapping[str, Any]
) -> dict[str, Any]:
    """One button for each view of the landscapes."""
    shown = [panel for panel in panels if panel.views]
    buttons = []
    for view, label in enumerate(VIEWS):
        notes = drawing.notes if view == LOSS else []
        changes: dict[str, Any] = {"annotations": [*drawing.titles, *notes]}
        for panel in shown:
            changes |= _axes_of_view(panel, shown, layout, view)
        visible = [at in (None, view) for at in drawing.views]
        buttons.append(
            {"label": label, "method": "update", "args": [{"visible": visible}, changes]}
        )
    return {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": 0,
        "y": 1,
        "xanchor": "left",
        "yanchor": "bottom",
        "pad": {"b": 20},
        "font": {"size": 11},
    }


def _axes_of_view(
    panel: Panel, shown: Sequence[Panel], layout: Mapping[str, Any], view: int
) -> dict[str, Any]:
    """Ranges, titles and ticks of a panel's axes in a view."""
    x, y = (layout[f"{letter}axis{panel.axis}"] for letter in "xy")
    alike = [p for p in shown if view in p.views and (p is panel or _shared("y", p, panel))]
    ends = [p.views[view].limits for p in alike] or [(0.0, 1.0)]
    title = y["title"]["text"]
    vertical: dict[str, Any] = {
        "range": short([min(low for low, _ in ends), max(high for _, high in ends)]),
        "title.text": title if view == LOSS or not title else TITLES[view],
        "tickmode": y["tickmode"] if view == LOSS else "auto",
        "showticklabels": any(y["ticktext"]),
    }
    across = {key: x[key] for key in ("range", "tickvals", "ticktext", "tickangle")}
    across |= {"title.text": x["title"]["text"], "matches": x.get("matches")}
    if view == COST and (drawn := style.landscape_of(panel.ax)):
        places = np.log2(drawn.scape.sizes.astype(float))
        margin = 0.08 * (np.ptp(places) or 1.0)
        dimension = markup(drawn.dimension.replace("\n", " "))
        across = {
            "range": short([places.min() - margin, places.max() + margin]),
            "tickvals": short(places),
            "ticktext": [f"{size:g}" for size in drawn.scape.sizes],
            "tickangle": 0,
            "title.text": dimension if x["title"]["text"] else "",
            "matches": None,
        }
        vertical["title.text"] = f"{TITLES[view]}<br>over {dimension}" if title else ""
    return {
        **{f"yaxis{panel.axis}.{key}": value for key, value in vertical.items()},
        **{f"xaxis{panel.axis}.{key}": value for key, value in across.items()},
    }
