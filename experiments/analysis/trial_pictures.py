"""Pictures of random searches: how good tuning is for its compute and for its samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from experiments.analysis import conventions, style
from experiments.analysis.trials import NAME, Curve

COLOR = {"mup": conventions.COLOR["mup"], "tuned": "#4c72b0", "naive": conventions.COLOR["sp"]}
NEXT_CROSS = 0.03  # of the panel's height, from a method's crosses to the next one's
MARKER = {"mup": "o", "tuned": "s", "naive": "^"}


def draw(by_compute: Mapping[str, Curve], by_samples: Mapping[str, Curve]) -> Figure:
    """Median BLEU of the trials, with a band of quartiles, against compute and against samples.

    A median that is a divergence is a cross at the bottom, without a band.

    Args:
        by_compute, by_samples: curves of the two panels by method, a key of `trials.NAME`.
    """
    fig, (left, right) = style.subplots(1, 2, figsize=(10.2, 3.7), sharey=True)
    left.set_ylim(*_limits([*by_compute.values(), *by_samples.values()]))
    for method, curve in by_compute.items():
        _curve(left, method, curve, curve.compute)
    for method, curve in by_samples.items():
        _curve(right, method, curve, curve.samples)
    for ax, label in ((left, "compute, relative to 1x"), (right, "samples of a trial")):
        ax.set_xlabel(label)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=9))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    left.set_ylabel("BLEU, median and quartiles of trials")
    style.legend(fig, left, "")
    return fig


def _curve(ax: Axes, method: str, curve: Curve, x: np.ndarray) -> None:
    color, bottom = COLOR[method], ax.get_ylim()[0]
    lost = np.isinf(curve.median)
    median = np.where(lost, np.nan, curve.median)
    ax.plot(x, median, color=color, marker=MARKER[method], ms=4, label=NAME[method], zorder=3)
    low = np.maximum(curve.low, bottom)
    ax.fill_between(x, low, curve.high, where=~lost, color=color, alpha=0.18, lw=0)
    if lost.any():
        ax.plot(
            x[lost],
            np.full(lost.sum(), 0.02 + NEXT_CROSS * list(COLOR).index(method)),
            "x",
            ms=6,
            color=color,
            label=f"{NAME[method]}, median diverged",
            transform=ax.get_xaxis_transform(),
        )


def _limits(curves: Iterable[Curve]) -> tuple[float, float]:
    """Of the BLEU axis: what is finite, with room for the crosses below."""
    ends = np.concatenate([x for c in curves for x in (c.low, c.median, c.high)])
    finite = ends[np.isfinite(ends)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin
