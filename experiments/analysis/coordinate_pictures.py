"""Pictures of coordinate checks; `mupkit` names them by strings."""

from __future__ import annotations

from typing import Any

import matplotlib
import matplotlib.lines
import matplotlib.pyplot as plt
import matplotlib.ticker
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis.style import subplots

ROLE_COLOR = {"input": "#4c72b0", "hidden": "#2a7f62", "output": "#c8853d"}
VERDICT_COLOR = {"fails": "#c44e52", "undecided": "#dd8452", "ok": "#9aa5a0"}
PANELS = {
    "activation": "activations at initialization",
    "change": "their change after the last step",
    "update": "updates, relative to theory",
}
NAMED = 6  # of the failing tensors, those farthest from theory


def coordinates(runs: pd.DataFrame) -> Figure:
    """Coordinate sizes against width: one panel per step, one curve per module, both axes log2.

    Args:
        runs: columns width, t (steps done), module, l1 (mean of absolute coordinates) and, if
            there are several, seed, over which the mean is drawn.
    """
    steps, modules = sorted(runs["t"].unique()), list(dict.fromkeys(runs["module"]))
    fig, axes = subplots(
        1,
        len(steps),
        figsize=(1.6 + 1.9 * len(steps), 3.3),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    colors = plt.get_cmap("turbo")(np.linspace(0.05, 0.95, len(modules)))
    mean = runs.groupby(["t", "module", "width"])["l1"].mean()
    mean = mean[mean > 0]  # a log axis has no place for a readout of zeros
    for ax, step in zip(axes[0], steps, strict=True):
        for module, color in zip(modules, colors, strict=True):
            if (step, module) in mean.index.droplevel("width"):
                sizes = mean.loc[step, module]
                ax.plot(sizes.index, sizes, ".-", color=color, label=str(module), ms=4, lw=1.1)
        _log2_axes(ax)
        ax.set_title(f"t = {step}")
        ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=4))
        ax.minorticks_off()
    axes[0, 0].set_ylabel("mean |coordinate|")
    entries: dict[str, Artist] = {}
    for ax in axes[0]:
        entries = {**dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)), **entries}
    fig.legend(
        [entries[str(m)] for m in modules if str(m) in entries],
        [str(m) for m in modules if str(m) in entries],
        loc="outside right center",
        fontsize=7,
    )
    return fig


def _log2_axes(ax: Axes) -> None:
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    ax.set_xlabel("width")
    ax.minorticks_off()


def coordinate_check(report: Any) -> Figure:
    """Size of every tensor against width, relative to the narrowest model; failing ones are named.

    Args:
        report: a `mupkit.coord_check.verdict.Report`. An import of the core here, even for its type
            alone, would redraw every figure when the core changes.
    """
    fig, axes = subplots(1, 3, figsize=(9.6, 3.6), sharex=True, sharey=True)
    for ax, (kind, title) in zip(axes, PANELS.items(), strict=True):
        verdicts = [v for v in report.verdicts if v.fit.kind == kind and v.judgement != "inactive"]
        sizes = _sizes(report.rows, kind)
        for verdict in reversed(verdicts):  # trouble on top
            curve = sizes.get(verdict.fit.tensor, {})
            if not curve or min(curve.values()) <= 0:
                continue
            first = curve[min(curve)]
            relative = [curve[width] / first for width in sorted(curve)]
            color = VERDICT_COLOR[verdict.judgement]
            ax.plot(sorted(curve), relative, ".-", color=color, lw=1.2, ms=4)
        failing = [v.fit.tensor for v in verdicts if v.judgement == "fails"]
        more = [f"and {len(failing) - NAMED} more"] if len(failing) > NAMED else []
        ax.text(
            0.04,
            0.97,
            "\n".join([*failing[:NAMED], *more]),
            transform=ax.transAxes,
            va="top",
            fontsize=7,
            color=VERDICT_COLOR["fails"],
        )
        _log2_axes(ax)
        ax.set_title(title, fontsize=9)
    axes[0].set_ylabel("size, relative to the narrowest")
    handles = [
        matplotlib.lines.Line2D([], [], color=color, label=judgement)
        for judgement, color in VERDICT_COLOR.items()
    ]
    fig.legend(handles=handles, loc="outside right center", fontsize=8)
    return fig


def _sizes(rows: Any, kind: str) -> dict[str, dict[int, float]]:
    """Mean over seeds by tensor and width; updates are divided by the size that theory expects."""
    last = max((row.step for row in rows), default=0)
    found: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        if row.kind == kind and row.step == (0 if kind == "activation" else last):
            size = row.value / 2.0 ** (row.expected or 0.0)
            found.setdefault(row.tensor, {}).setdefault(row.width, []).append(size)
    return {
        tensor: {width: float(np.mean(values)) for width, values in by_width.items()}
        for tensor, by_width in found.items()
    }
