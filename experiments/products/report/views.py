"""A landscape in three views: losses, losses minus each curve's own best, the cost of transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from experiments.analysis import conventions, style, transfer
from experiments.products.report.traces import Options, area, marks, markup, short

LOSS, EXCESS, COST = range(3)
VIEWS = ("loss", "minus own best", "cost of transfer")
TITLES = ("", "loss minus the curve's own best", "cost of the smallest one's best value")
TOLD = "%{customdata}<extra>%{fullData.name}</extra>"
SHOWN = 0.9  # share of the losses above a best one for which there is room
Range = tuple[float, float]


@dataclass(frozen=True)
class View:
    """A landscape in one view.

    Attributes:
        limits: of the vertical axis.
        traces: their options.
    """

    limits: Range
    traces: tuple[Options, ...]


def views(
    shown: style.Shown, limits: Range, ticks: Mapping[float, str], shade: str
) -> dict[int, View]:
    """A landscape in each view; one whose smallest model always diverged has no cost of transfer.

    Args:
        shown: the landscape, and how it is drawn.
        limits: of the losses, as they are drawn.
        ticks: names of places on its axis.
        shade: colour of the parametrization.
    """
    scape = shown.scape
    means = np.stack([_mean(scape.losses[:, i]) for i in range(len(scape.sizes))])
    best = np.array([np.nanmin(m) if np.isfinite(m).any() else np.nan for m in means])
    above = means - best[:, None]
    above = above[np.isfinite(above)]
    top = float(np.quantile(above, SHOWN)) if len(above) else 0.0
    found = {
        LOSS: View(limits, tuple(_curves(shown, means, ticks, lambda i: shown.show))),
        EXCESS: _excess(shown, means, best, (-0.04 * (top or 1.0), 1.1 * (top or 1.0)), ticks),
    }
    if np.isfinite(scape.losses.mean(axis=0)[0]).any():
        found[COST] = _costs(scape, shade)
    return found


def _excess(
    shown: style.Shown,
    means: np.ndarray,
    best: np.ndarray,
    limits: Range,
    ticks: Mapping[float, str],
) -> View:
    def above(i: int) -> Callable[[Any], Any]:
        return lambda losses: losses - best[i]

    return View(limits, tuple(_curves(shown, means, ticks, above)))


def _curves(
    shown: style.Shown,
    means: np.ndarray,
    ticks: Mapping[float, str],
    shows: Callable[[int], Callable[[Any], Any]],
) -> Iterator[Options]:
    """Band, curve and best point of each size."""
    scape = shown.scape
    places = conventions.mark_sizes(len(scape.sizes))
    for i, (size, mean) in enumerate(zip(scape.sizes.tolist(), means, strict=True)):
        show, shade = shows(i), shown.colors[size]
        label = markup(shown.names.get(size, f"{size}"))
        losses = scape.losses[:, i]
        there = np.isfinite(losses)
        texts = [
            _told(show, losses[:, j], ticks.get(float(place), f"{place:.4g}"), _steps(scape, i, j))
            for j, place in enumerate(scape.grid)
        ]
        whole = there.all(axis=0)
        if len(losses) > 1 and whole.any():
            x = scape.grid[whole]
            low, high = (show(end(losses[:, whole], axis=0)) for end in (np.min, np.max))
            ends = np.concatenate([x, x[::-1]]), np.concatenate([low, high[::-1]])
            yield area(np.column_stack(ends), shade, 0.2, label)
        yield {
            "kind": go.Scatter,
            "x": short(scape.grid),
            "y": short(show(mean)),
            "mode": "lines+markers",
            "marker": {"size": 4, "color": shade},
            "line": {"color": shade, "width": 2},
            "name": label,
            "customdata": texts,
            "hovertemplate": TOLD,
        }
        if whole.any():
            at = int(np.nanargmin(mean))
            told = {"customdata": [f"best: {texts[at]}"], "hovertemplate": TOLD}
            best = marks(scape.grid[[at]], show(mean[[at]]), shade, label, "circle", places[i])
            best["marker"] |= {
                "color": conventions.tint(shade),
                "line": {"color": shade, "width": 2},
            }
            yield best | told


def divergence(shown: style.Shown, shade: str, place: float) -> str:
    """Where the curve of a colour diverged at a place of the grid: seeds and steps."""
    scape = shown.scape
    i = next(i for i, size in enumerate(scape.sizes.tolist()) if shown.colors[size] == shade)
    j = int(np.flatnonzero(scape.grid == place)[0])
    there = np.isfinite(scape.losses[:, i, j])
    return _lost(there, _steps(scape, i, j))


def _steps(scape: transfer.Landscape, i: int, j: int) -> list[int]:
    """The steps at which the runs of a size and a value diverged, as far as they are known."""
    if scape.lost_at is None:
        return []
    found = scape.lost_at[:, i, j]
    return sorted(int(step) for step in found[np.isfinite(found)])


def _lost(there: np.ndarray, steps: Sequence[int]) -> str:
    at = f", at step {' and '.join(map(str, steps))}" if steps else ""
    return f"<b>diverged</b> with {(~there).sum()} of {len(there)} seeds{at}"


def _told(show: Callable[[Any], Any], losses: np.ndarray, place: str, steps: Sequence[int]) -> str:
    """What stands beside the pointer: mean, each seed, and where it diverged."""
    there = np.isfinite(losses)
    parts = []
    if there.any():
        values = [f"{value:.4g}" for value in np.atleast_1d(show(losses[there]))]
        parts.append(f"<b>{float(show(losses[there].mean())):.4g}</b> at {place}")
        parts.append(f"by seed {', '.join(values)}" if len(values) > 1 else "one seed")
    else:
        parts.append(f"at {place}")
    if not there.all():
        parts.append(_lost(there, steps))
    return "<br>".join(parts)


def _mean(losses: np.ndarray) -> np.ndarray:
    """The mean over seeds; NaN where one of them diverged."""
    return np.asarray(np.where(np.isfinite(losses), losses, np.nan).mean(axis=0))


def _costs(scape: transfer.Landscape, shade: str) -> View:
    """For each size, what the smallest one's best value costs it."""
    mean = scape.losses.mean(axis=0)
    pick = int(np.argmin(mean[0]))
    best = mean.min(axis=1)
    fine = np.isfinite(mean[:, pick])
    costs = np.where(fine, mean[:, pick] - np.where(np.isfinite(best), best, 0.0), np.nan)
    top = float(np.nanmax(costs)) or 1.0
    texts = [
        f"<b>{cost:.3g}</b> above its best" if known else "<b>diverges</b> there"
        for cost, known in zip(costs, fine, strict=True)
    ]
    options = {
        "kind": go.Scatter,
        "x": short(np.log2(scape.sizes.astype(float))),
        "y": short(np.where(fine, costs, 1.1 * top)),
        "mode": "lines+markers",
        "marker": {
            "size": 9,
            "color": shade,
            "symbol": ["circle" if known else "x-thin" for known in fine],
            "line": {"width": 2, "color": shade},
        },
        "line": {"color": shade, "width": 1, "dash": "dot"},
        "name": "",
        "customdata": texts,
        "hovertemplate": "%{customdata}<extra></extra>",
    }
    return View((-0.05 * top, 1.2 * top), (options,))
