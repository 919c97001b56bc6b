"""Figure 10 and its claims. Pure functions of the tidy table of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.analysis import conventions, landscapes, style, transfer
from experiments.declare.claims import Measured

TITLES = {"proportional": "d_k = d_model / n_head", "enlarged": "d_k of one size"}


def by_d_k(runs: pd.DataFrame) -> dict[str, transfer.Landscape]:
    """The landscapes with d_k in proportion and enlarged; the widest model is in both."""
    widest, given = runs["width"].eq(runs["width"].max()), runs["d_k"].notna()
    parts = {"proportional": runs[~given | widest], "enlarged": runs[given | widest]}
    return {name: transfer.landscape(part, "mup", "attn_mult") for name, part in parts.items()}


def draw_fig10(runs: pd.DataFrame) -> Figure:
    """Loss minus its own minimum over the attention multiplier; d_k in proportion, enlarged."""
    found = {}
    for name, scape in by_d_k(runs).items():
        mean = scape.losses.mean(axis=0)
        least = np.where(np.isfinite(mean), mean, np.nan)
        lowest = np.nanmin(least, axis=1)[None, :, None]
        found[name] = transfer.Landscape(scape.losses - lowest, scape.sizes, scape.grid)
    fig, axes = style.subplots(1, 2, figsize=(8.6, 3.9), sharex=True, sharey=True)
    landscapes.curves([*zip(axes, found.values(), strict=True)])
    for ax, name in zip(axes, found, strict=True):
        ax.set_title(TITLES[name])
        style.log2_axis(ax, "log2 attention multiplier")
    axes[0].set_ylim(*conventions.limits(found.values()))
    axes[0].set_ylabel("training loss above its minimum (nats)")
    style.legend(fig, axes[0], "width\n(d_model)")
    return fig


def fig10_roughness(runs: pd.DataFrame) -> Measured:
    """Roughness with an enlarged d_k minus that with d_k in proportion."""
    return _difference(runs, transfer.roughness)


def fig10_regret(runs: pd.DataFrame) -> Measured:
    """Regret with an enlarged d_k minus that with d_k in proportion."""
    return _difference(runs, transfer.regret)


def _difference(runs: pd.DataFrame, statistic: transfer.Statistic) -> Measured:
    found = by_d_k(runs)

    def difference(index: np.ndarray) -> float:
        left, right = (statistic(s, s.losses[index]) for s in found.values())
        return right - left

    seeds = len(found["enlarged"].losses)
    note = ", ".join(f"{name} {statistic(s, s.losses):.4f}" for name, s in found.items())
    return landscapes.over_seeds(difference, seeds, note)
