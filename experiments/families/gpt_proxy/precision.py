"""What number formats lose of the gradients: a picture and its claims, from the tidy table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import conventions, landscapes, style
from experiments.analysis.underflow import FORMATS, lost, overflowing, together
from experiments.declare.claims import Measured

LINES = {"weights": "-", "activations": "--"}  # by kind of gradient
SCALES = range(0, 33, 2)  # binary exponents of the factor of the loss
Layers = dict[str, dict[int, int]]


@dataclass(frozen=True)
class Best:
    """The runs of a width at its best learning rate.

    Attributes:
        log2lr: the rate with the lowest mean loss of those at which no seed diverged.
        gradients: counts of exponents by kind and layer, for each seed.
    """

    log2lr: float
    gradients: list[dict[str, Layers]]

    def layers(self) -> list[str]:
        """All layers, in the order of the model."""
        return list(dict.fromkeys(layer for kind in LINES for layer in self.gradients[0][kind]))

    def whole(self, seed: int) -> dict[int, int]:
        """All entries of a seed together."""
        return together(
            part for layers in self.gradients[seed].values() for part in layers.values()
        )


def best(runs: pd.DataFrame) -> dict[tuple[str, int], Best]:
    """The best runs by parametrization and width; a width that diverged everywhere is left out."""
    loss = runs["final_loss"].where(~runs["diverged"], np.inf)
    found = {}
    for key, own in runs.assign(final_loss=loss).groupby(["parametrization", "width"]):
        means = own.groupby("log2lr")["final_loss"].mean()
        if np.isfinite(means.min()):
            rate = float(means.idxmin())
            kept = own[own["log2lr"] == rate].sort_values("seed")["gradient_exponents"]
            found[cast("tuple[str, int]", key)] = Best(rate, [*map(_parsed, kept)])
    return found


def _parsed(text: str) -> dict[str, Layers]:
    return {
        kind: {
            layer: {int(exponent): number for exponent, number in counts.items()}
            for layer, counts in layers.items()
        }
        for kind, layers in json.loads(text).items()
    }


def draw_precision(runs: pd.DataFrame) -> Figure:
    """Losses by layer, and against the factor of the loss, SP beside µP."""
    found = best(runs)
    fig, axes = style.subplots(2, 2, figsize=(10.4, 7.2), sharex="row", sharey="row")
    for column, parametrization in zip(axes.T, ("sp", "mup"), strict=True):
        own = {width: part for (p, width), part in found.items() if p == parametrization}
        for width, part in own.items():
            label = f"{width}" if parametrization == "mup" else None
            color = conventions.size_color(width)
            _by_layer(column[0], part, color)
            _by_scale(column[1], part, color, label)
        rates = ", ".join(conventions.number(part.log2lr) for part in own.values())
        title = f"{conventions.NAME[parametrization]}\nlog2 rates {rates}"
        column[0].set_title(title, color=conventions.COLOR[parametrization])
        style.log2_axis(column[1], "log2 of the factor of the loss")
    axes[0, 0].set_ylabel(
        "float16: to zero, % of the\nentries of weights (solid)\nand activations (dashed)"
    )
    axes[1, 0].set_ylabel("float16: to zero (solid),\ntoo large (dotted), % of all entries")
    axes[0, 0].set_ylim(bottom=0)
    axes[1, 0].set(yscale="log", ylim=(1e-4, 150))
    style.legend(fig, axes[1, 1], "width\n(d_model)")
    return fig


def _by_layer(ax: Axes, part: Best, color: str) -> None:
    layers = part.layers()
    for kind, line in LINES.items():
        shares = [
            [lost(found[kind].get(layer, {}), "float16") for layer in layers]
            for found in part.gradients
        ]
        _line(ax, range(len(layers)), shares, color, linestyle=line, marker="o", ms=3)
    ax.set_xticks(range(len(layers)), layers, rotation=60, ha="right", rotation_mode="anchor")


def _by_scale(ax: Axes, part: Best, color: str, label: str | None) -> None:
    seeds = range(len(part.gradients))
    for measure, options in ((lost, {"label": label}), (overflowing, {"linestyle": ":"})):
        shares = [
            [measure(part.whole(seed), "float16", scale) for scale in SCALES] for seed in seeds
        ]
        _line(ax, SCALES, shares, color, **options)


def _line(ax: Axes, x: range, shares: list[list[float]], color: str, **options: Any) -> None:
    """The mean over seeds in per cent, and their range."""
    percent = 100 * np.array(shares)
    ax.plot(x, percent.mean(axis=0), color=color, **options)
    ax.fill_between(x, percent.min(axis=0), percent.max(axis=0), color=color, alpha=0.2, lw=0)


def _widest(runs: pd.DataFrame, parametrization: str) -> list[dict[int, int]]:
    """All entries of the widest model's gradients by seed; none if it diverged at every rate."""
    part = best(runs).get((parametrization, int(runs["width"].max())))
    return [part.whole(seed) for seed in range(len(part.gradients))] if part else []


def mup_minus_sp(runs: pd.DataFrame) -> Measured:
    """The share that float16 rounds to zero of the widest µP model minus that of the SP one."""
    mup, sp = (
        np.array([lost(counts, "float16") for counts in _widest(runs, p)]) for p in ("mup", "sp")
    )
    if not (len(mup) and len(sp)):
        return Measured(float("nan"), note="the widest model diverged at every rate")
    note = f"{mup.mean():.3f} and {sp.mean():.3f}"
    return landscapes.over_seeds(
        lambda index: float(mup[index].mean() - sp[index].mean()), len(mup), note
    )


def lost_at_best_scale(runs: pd.DataFrame) -> Measured:
    """The share that float16 rounds to zero of the widest µP model with the best factor."""
    found = _widest(runs, "mup")
    if not found:
        return Measured(float("nan"), note="the widest model diverged at every rate")
    scales = [_largest_scale(counts) for counts in found]
    shares = np.array([lost(c, "float16", s) for c, s in zip(found, scales, strict=True)])
    note = "log2 of the factor by seed " + ", ".join(map(str, scales))
    return landscapes.over_seeds(lambda index: float(shares[index].mean()), len(shares), note)


def _largest_scale(counts: Mapping[int, int]) -> int:
    scale = 0
    while overflowing(counts, "float16", scale + 1) == 0:
        scale += 1
    return scale


def lost_otherwise(runs: pd.DataFrame) -> Measured:
    """The largest share that a format other than float16 rounds to zero, of all best models."""
    shares = {
        name: max(
            (
                lost(part.whole(seed), name)
                for part in best(runs).values()
                for seed in range(len(part.gradients))
            ),
            default=float("nan"),
        )
        for name in FORMATS
        if name != "float16"
    }
    note = ", ".join(f"{name} {share:.2g}" for name, share in shares.items())
    return Measured(max(shares.values()), note=note)
