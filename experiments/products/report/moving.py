"""Landscapes that change with one number, with a slider that moves all panels together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.analysis import conventions, transfer
from experiments.analysis.conventions import ANCHORS, SHORT
from experiments.products.report.traces import short

STATISTICS: dict[str, Callable[[transfer.Landscape], float]] = {
    "drift of the best rate<br>(octaves per doubling)": transfer.drift_per_doubling,
    "cost of the narrowest's<br>best rate": transfer.regret,
}
LINE, MARK = "#777777", "#c44e52"


def moving(frames: Mapping[float, transfer.Landscape], ylabel: str) -> go.Figure:
    """Curves, drift and cost of transfer; the slider moves all three.

    Args:
        frames: landscapes by the number, ascending.
        ylabel: of the losses.
    """
    scapes = dict(sorted(frames.items()))
    fig = make_subplots(1, 3, column_widths=[0.46, 0.27, 0.27], horizontal_spacing=0.09)
    first = next(iter(scapes))
    for trace in _curves(scapes[first]):
        fig.add_trace(trace, 1, 1)
    known = {
        name: {t: value for t, s in scapes.items() if np.isfinite(value := statistic(s))}
        for name, statistic in STATISTICS.items()
    }
    for column, (name, values) in enumerate(known.items(), start=2):
        fig.add_trace(_line(values), 1, column)
        fig.update_xaxes(title="t", range=[min(scapes) - 0.1, max(scapes) + 0.1], col=column)
        fig.update_yaxes(title=name, col=column)
        for t, anchor in ANCHORS.items():
            color = conventions.COLOR[anchor]
            fig.add_vline(t, line={"dash": "dot", "color": color}, row=1, col=column)
            fig.add_annotation(
                text=SHORT[anchor], x=t, y=1, yref="y domain", yanchor="bottom", showarrow=False,
                font={"color": color}, row=1, col=column,
            )  # fmt: skip
    for column, values in enumerate(known.values(), start=2):
        fig.add_trace(_mark(values, first), 1, column)
    sizes = len(_curves(scapes[first]))
    moved = [*range(sizes), *range(sizes + len(known), sizes + 2 * len(known))]
    fig.frames = [
        go.Frame(
            name=f"{t:g}",
            data=[*_curves(scape), *(_mark(values, t) for values in known.values())],
            traces=moved,
        )
        for t, scape in scapes.items()
    ]
    low, high = conventions.limits(scapes.values())
    rates = np.concatenate([scape.grid for scape in scapes.values()])
    fig.update_xaxes(
        title="log2 learning rate", range=[rates.min() - 0.5, rates.max() + 0.5], col=1
    )
    fig.update_yaxes(title=ylabel, range=[low, high], col=1)
    fig.update_xaxes(zeroline=False, showline=True, linecolor="#999999")
    fig.update_yaxes(zeroline=False, showline=True, linecolor="#999999", title_standoff=4)
    fig.update_layout(
        height=480,
        margin={"l": 60, "r": 10, "t": 60, "b": 70},
        template="plotly_white",
        font={"family": "system-ui, sans-serif", "size": 12},
        legend={
            "title": {"text": "width "},
            "orientation": "h",
            "x": 0,
            "y": 1,
            "yanchor": "bottom",
        },
        meta={"least": 700},
        sliders=[_slider(list(scapes))],
    )
    return fig


def _curves(scape: transfer.Landscape) -> list[go.Scatter]:
    """One curve per size, and the best point of each."""
    found, best = [], []
    for size, losses in zip(scape.sizes.tolist(), scape.losses.mean(axis=0), strict=True):
        shown, color = short(losses), conventions.size_color(size)
        at = int(np.argmin(losses))
        best.append((float(scape.grid[at]), shown[at], color))
        found.append(
            go.Scatter(
                x=scape.grid.tolist(),
                y=shown,
                mode="lines+markers",
                marker={"size": 4},
                line={"color": color, "width": 2},
                name=f"{size}",
                hovertemplate="%{y}<br>at 2<sup>%{x}</sup><extra>width %{fullData.name}</extra>",
            )
        )
    x, y, shades = (list(column) for column in zip(*best, strict=True))
    marker: dict[str, Any] = {"size": 11, "color": shades, "line": {"color": "white", "width": 1}}
    return [
        *found,
        go.Scatter(x=x, y=y, mode="markers", marker=marker, showlegend=False, hoverinfo="skip"),
    ]


def _line(values: Mapping[float, float]) -> go.Scatter:
    return go.Scatter(
        x=list(values),
        y=short(values.values()),
        mode="lines+markers",
        line={"color": LINE},
        showlegend=False,
        hovertemplate="%{y} at t = %{x}<extra></extra>",
    )


def _mark(values: Mapping[float, float], t: float) -> go.Scatter:
    """Where the slider stands; nothing where the statistic has no value."""
    there = [t] if t in values else []
    return go.Scatter(
        x=there,
        y=[values[t] for t in there],
        mode="markers",
        marker={"size": 13, "color": MARK, "line": {"color": "white", "width": 1}},
        showlegend=False,
        hoverinfo="skip",
    )


def _slider(values: list[float]) -> dict[str, Any]:
    def label(t: float) -> str:
        return f"{t:g}" + (f" {SHORT[ANCHORS[t]]}" if t in ANCHORS else "")

    move = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}}
    steps = [{"label": label(t), "method": "animate", "args": [[f"{t:g}"], move]} for t in values]
    return {"steps": steps, "currentvalue": {"prefix": "t = "}, "pad": {"t": 36}, "len": 1.0}
