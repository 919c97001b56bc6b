"""Loss over a training, one curve per width, and where in it a wider model is worse.

Pure functions of the table with one row per step.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from experiments.analysis import conventions, landscapes, transfer
from experiments.declare.claims import Measured

WINDOWS = 50  # of a training, over which losses are averaged


def windows(steps: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Losses (S, W, T) of seeds, widths and windows of steps; widths; the windows' last steps.

    From the step at which a run diverged on, its loss is infinite.

    Args:
        steps: with columns seed, width, step, steps, loss and diverged_step.
    """
    total = int(steps["steps"].iloc[0])
    table = steps.pivot(index=["seed", "width"], columns="step", values="loss")
    lost = steps.groupby(["seed", "width"])["diverged_step"].first().reindex(table.index)
    losses = table.reindex(columns=range(total)).to_numpy(copy=True)
    losses[np.arange(total) >= lost.fillna(total).to_numpy()[:, None]] = np.inf
    seeds, widths = (np.unique(steps[column]) for column in ("seed", "width"))
    parts = np.array_split(losses, min(WINDOWS, total), axis=1)
    means = np.stack([part.mean(axis=1) for part in parts], axis=1)
    ends = np.cumsum([part.shape[1] for part in parts])
    return means.reshape(len(seeds), len(widths), len(parts)), widths, ends


def by_width(panel: Axes, strip: Axes, steps: pd.DataFrame, tokens: int = 1) -> np.ndarray:
    """Loss over steps by width, and below it the steps in which a wider model is worse.

    Args:
        panel, strip: the axes of both; the title of the strip says their share.
        steps: the table.
        tokens: of a step, if the axis counts tokens.

    Returns:
        The losses that are drawn (S, W, T).
    """
    curves, widths, ends = windows(steps)
    ends = ends * tokens
    for width, losses in zip(widths, np.moveaxis(curves, 1, 0), strict=True):
        color = conventions.size_color(width)
        panel.plot(ends, losses.mean(axis=0), color=color, label=f"{width}", lw=1.2)
        band = losses.min(axis=0), losses.max(axis=0)
        panel.fill_between(ends, *band, color=color, alpha=0.2, lw=0)
    worse = transfer.order_violated(curves)
    strip.pcolormesh(
        np.append(0, ends), [0, 1], worse[None].astype(float), cmap="Greys", vmin=0, vmax=1.4
    )
    strip.set(yticks=[])
    strip.grid(False)
    strip.spines[:].set(visible=True, color="#999999")  # so that an empty strip is seen
    strip.set_title(f"a wider one is worse in {100 * worse.mean():.0f} % of the steps", size=8)
    return curves


def limits(drawn: Sequence[np.ndarray]) -> tuple[float, float]:
    """From below the lowest loss to what most curves reach."""
    finite = np.concatenate([curves[np.isfinite(curves)] for curves in drawn])
    if not len(finite):
        return 0.0, 1.0
    return float(finite.min() - 0.1), float(np.quantile(finite, 0.97))


def violated(steps: pd.DataFrame) -> Measured:
    """Share of the steps in which a wider model is worse than the next narrower one.

    What seed noise allows is that of all seeds; the interval is of resampled means.
    """
    curves, widths, _ = windows(steps)
    if len(curves) < 2 or len(widths) < 2:
        return Measured(float("nan"), note="needs two seeds and two widths")
    bound = transfer.noise_bound(curves)
    pairs = [
        f"{a} to {b}: {transfer.order_violated(curves[:, i : i + 2], bound).mean():.2f}"
        for i, (a, b) in enumerate(itertools.pairwise(widths))
    ]
    return landscapes.over_seeds(
        lambda index: float(transfer.order_violated(curves[index], bound).mean()),
        len(curves),
        "by pair of widths " + ", ".join(pairs),
    )
