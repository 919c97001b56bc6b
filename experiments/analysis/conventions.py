"""What pictures of any kind agree on: colours, names of axes, ticks and limits. No Matplotlib here.

A size is a width or another dimension that is scaled; a key is a hyperparameter of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from experiments.analysis.transfer import Landscape
from experiments.declare.schedules import SCHEDULES, TITLES

COLOR = {"sp": "#c44e52", "mup": "#2a7f62"}
NAME = {"sp": "Standard parametrization (SP)", "mup": "Maximal update parametrization (µP)"}
SHORT = {"sp": "SP", "mup": "µP"}
ANCHORS = {0.0: "sp", 1.0: "mup"}
"""The parametrization at an interpolation t."""


def number(value: float) -> str:
    """A number for readers, with four digits at most and a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


# Of the sizes 2, 4, ... 8192: dark for large. The hue turns by 50 degrees and the lightness falls
# from each to the next, so that neighbours differ for colour-blind readers, too.
PALETTE = (
    *("#90b3fe", "#1abad8", "#18b584", "#8c9705", "#b76d01", "#c04356", "#95419a"),
    *("#464fb5", "#085a73", "#005344", "#314300", "#442b01", "#4f0006"),
)
DOUBLINGS = {"n_layer": 4, "batch_size": 2}  # by which a dimension is smaller than a width


def size_color(size: float, dimension: str = "width") -> str:
    """The colour of a size, "#rrggbb", by its base-2 logarithm: the same in every picture."""
    place = math.log2(size) + DOUBLINGS.get(dimension, 0) - 1
    whole = math.floor(place)
    below, above = (_channels(PALETTE[(whole + i) % len(PALETTE)]) for i in (0, 1))
    between = zip(below, above, strict=True)
    return "#" + "".join(f"{round(a + (place - whole) * (b - a)):02x}" for a, b in between)


def _channels(color: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(color[1:]))


def tint(color: str) -> str:
    """A colour halfway to white."""
    return "#" + "".join(f"{(channel + 255) // 2:02x}" for channel in _channels(color))


SMALLEST_MARK, MARK_STEP, LARGEST_MARK = 5.0, 2.5, 11.0


def mark_sizes(count: int) -> list[float]:
    """Diameters of the marks of `count` minima, in points: one on top of another hides none."""
    largest = min(SMALLEST_MARK + MARK_STEP * (count - 1), LARGEST_MARK)
    return [float(size) for size in np.linspace(largest, SMALLEST_MARK, count)]


@dataclass(frozen=True)
class Axis:
    """A hyperparameter: its label, and where a value stands on its axis (log2 without `place`).

    Args:
        label: of the axis.
        place: of a value on the axis.
        names: values that are names, by place.
        titles: what readers call these values.
        ticks: of the axis by place, where whole powers of two would say nothing.
    """

    label: str
    place: Callable[[Any], float] | None = None
    names: Sequence[str] = ()
    titles: Sequence[str] = ()
    ticks: Mapping[float, str] | None = None


def _beta2_place(beta2: float) -> float:
    return -math.log2(1 - beta2)


BETA2 = (0.7, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997)
AXES = {
    "log2lr": Axis("log2 learning rate"),
    "output_mult": Axis("log2 output multiplier"),
    "attn_mult": Axis("log2 attention multiplier"),
    "init_std": Axis("log2 std of initialization"),
    "schedule": Axis(
        "schedule", SCHEDULES.index, SCHEDULES, [TITLES[schedule] for schedule in SCHEDULES]
    ),
    "beta2": Axis(
        "Adam's β2", _beta2_place, ticks={_beta2_place(beta2): f"{beta2:g}" for beta2 in BETA2}
    ),
}
DIMENSIONS = {
    "width": "width\n(d_model)",
    "d_ffn": "d_ffn",
    "n_layer": "depth\n(blocks)",
    "batch_size": "batch size",
    "seq_len": "sequence\nlength",
    "steps": "training\nsteps",
}


def ticks(key: str, grid: np.ndarray) -> dict[float, str] | None:
    """Ticks by place of a hyperparameter's axis, within its grid; None: whole numbers will do."""
    axis = AXES[key]
    if axis.names:
        return {float(place): axis.titles[int(place)] for place in grid}
    if axis.ticks is None:
        return None
    margin = 0.05 * np.ptp(grid)
    low, high = grid.min() - margin, grid.max() + margin
    return {place: label for place, label in axis.ticks.items() if low <= place <= high}


def size_names(runs: pd.DataFrame, dimension: str) -> tuple[str, dict[int, str]]:
    """What a legend calls a dimension and its sizes.

    A width that grows by more heads of one size is told by their number and size.

    Args:
        runs: those that are shown.
        dimension: column of the sizes.
    """
    sizes = sorted(map(int, runs[dimension].unique()))
    if dimension == "width" and "d_head" in runs and runs["n_head"].nunique() > 1:
        heads = runs["d_head"].fillna(runs["width"] / runs["n_head"])
        if heads.nunique() == 1:
            d_head = int(heads.iloc[0])
            return f"heads,\nd_head = {d_head}", {n: f"{n // d_head} (width {n})" for n in sizes}
    return DIMENSIONS[dimension], {size: f"{size}" for size in sizes}


def divergences(scape: Landscape) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Where each size diverged: values of the grid with all seeds, and with some of them.

    A size that never diverged is left out.
    """
    found = {}
    for size, lost in zip(scape.sizes, np.moveaxis(~np.isfinite(scape.losses), 1, 0), strict=True):
        if lost.any():
            every = lost.all(axis=0)
            found[int(size)] = (scape.grid[every], scape.grid[lost.any(axis=0) & ~every])
    return found


def diverged_sizes(scapes: Iterable[Landscape]) -> list[int]:
    """The sizes that diverged in any of some panels: each has a row of marks above all of them."""
    return sorted({size for scape in scapes for size in divergences(scape)})


BLOW_UP = 1.5  # times what most curves reach


def limits(scapes: Iterable[Landscape], whole: bool = False) -> tuple[float, float]:
    """From below the lowest loss to the highest one, or what most reach; a blow-up leaves it.

    Args:
        scapes: what is drawn.
        whole: whether a blow-up stays inside.
    """
    drawn = [scape.losses[:, np.isfinite(scape.losses).all(axis=0)].ravel() for scape in scapes]
    finite = np.concatenate([*drawn, np.empty(0)])
    if not len(finite):
        return 0.0, 1.0
    low, most, high = finite.min(), np.quantile(finite, 0.97), finite.max()
    if not whole and high - low > BLOW_UP * (most - low):
        high = most
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


FLAT = 0.4  # of an axis: curves of a column that use less have an axis of their own


def panel_limits(
    rows: Sequence[Mapping[str, Landscape]], together: bool = False
) -> dict[tuple[int, str], tuple[float, float]]:
    """Limits of the loss axis by row and key of a panel.

    The panels of a row share them; of all rows, if these are compared with each other. A column
    whose curves are flat in every row has its own, which it then shares in the same way.

    Args:
        rows: landscapes by key, of each row of panels.
        together: whether the rows are compared.
    """
    numbers = range(len(rows))
    groups: list[Sequence[int]] = [numbers] if together else [[i] for i in numbers]
    found: dict[tuple[int, str], tuple[float, float]] = {}
    for group in groups:
        shared = _limits({(i, key): rows[i][key] for i in group for key in rows[i]})
        found |= {(i, key): shared for i in group for key in rows[i]}
    for key in rows[0]:
        own: dict[tuple[int, str], tuple[float, float]] = {}
        for group in groups:
            column = limits((rows[i][key] for i in group), whole=True)
            own |= {(i, key): column for i in group}
        if all(np.ptp(own[panel]) < FLAT * np.ptp(found[panel]) for panel in own):
            found |= own
    return found


def _limits(panels: Mapping[tuple[Hashable, str], Landscape]) -> tuple[float, float]:
    """Limits of some panels, raised above the mean losses of named values, such as schedules."""
    low, high = limits(panels.values())
    means = [scape.losses.mean(axis=0) for (_, key), scape in panels.items() if AXES[key].names]
    top = max((mean[np.isfinite(mean)].max(initial=low) for mean in means), default=low)
    return low, max(high, top + 0.03 * (top - low))
