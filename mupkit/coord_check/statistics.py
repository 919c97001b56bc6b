"""The exponent of width in each measured size, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, linear_regression, stdev
from typing import cast

from mupkit.coord_check.record import Kind, Row

Run = tuple[int, int]  # width, seed
NEGLIGIBLE = 1e-7
"""Sizes below this fraction of the largest of their kind are zeros and their rounding noise."""

# Two-sided 95 %, by degrees of freedom from 1. Source: NIST/SEMATECH e-Handbook of Statistical
# Methods, 1.3.6.7.2, "Critical Values of the Student's-t Distribution", column 0.975.
T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class Fit:
    """The power of width that a size follows: value / 2**expected ~ width**exponent.

    Args:
        tensor, kind, finite: as in `Row`.
        step: the last step that was measured, 0 for activations.
        exponent: mean over seeds; None if values are zero or negligible; nan if one is not finite.
        interval: the 95 % confidence interval of that mean; None with one seed.
        curvature: exponent in the upper half of the widths minus that in the lower half; None with
            two widths. If its sign is opposite to the exponent's, the widths are still too small
            for the limit.
        inactive: the fraction of the values that are zero or negligible.
        seeds: the number of seeds.
        missing: the number of seeds that are left out, since the tensor is not there at half of the
            widths: routing that depends on data calls a module in some runs alone.
        source: the exponent of the largest tensor that the module of an activation got.
    """

    tensor: str
    kind: Kind
    step: int
    finite: bool
    exponent: float | None
    interval: tuple[float, float] | None
    curvature: float | None
    inactive: float
    seeds: int
    missing: int = 0
    source: float | None = None


def t_quantile(degrees: int) -> float:
    """The 0.975 quantile of Student's t; that of the normal distribution beyond 30 degrees."""
    return T_975[degrees - 1] if degrees <= len(T_975) else NormalDist().inv_cdf(0.975)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % confidence interval of the mean of independent values; None for one value."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def fit(rows: Iterable[Row]) -> list[Fit]:
    """One fit per tensor and kind, from one size per run.

    That size is the activation at step 0, the change at the last step, and the root mean square of
    the updates over all steps: a single update is often small by chance, where the gradient of a
    bias or a scalar changes sign.

    The exponent of one seed is the least-squares slope of log2(size) - expected against
    log2(width). Seeds are independent, widths of one seed are not, so the interval is that of the
    mean of the seeds' slopes.
    """
    rows = list(rows)
    last = max(row.step for row in rows)
    sizes: dict[tuple[Kind, str], dict[Run, list[Row]]] = {}
    for row in rows:
        if row.kind in ("update", "clipping") or row.step == (
            0 if row.kind == "activation" else last
        ):
            runs = sizes.setdefault((row.kind, row.tensor), {})
            runs.setdefault((row.width, row.seed), []).append(row)
    pooled = [[_pool(steps) for steps in runs.values()] for runs in sizes.values()]
    largest: dict[tuple[Kind, Run], float] = {}
    for row in (row for group in pooled for row in group):
        key = (row.kind, (row.width, row.seed))
        largest[key] = max(largest.get(key, 0.0), row.value)
    widths, seeds = {row.width for row in rows}, {row.seed for row in rows}
    return [_fit(group, largest, widths, seeds) for group in pooled]


def _pool(rows: Sequence[Row]) -> Row:
    """The row of the last step with the root mean square of all values."""
    return replace(rows[-1], value=math.sqrt(fmean(row.value**2 for row in rows)))


def _fit(
    rows: Sequence[Row],
    largest: Mapping[tuple[Kind, Run], float],
    widths: set[int],
    asked: set[int],
) -> Fit:
    first = rows[0]
    have = {seed: {row.width for row in rows if row.seed == seed} for seed in asked}
    seeds = sorted(seed for seed in asked if len(have[seed]) >= max(2, (len(widths) + 1) / 2))
    rows = [row for row in rows if row.seed in seeds]
    floors = [NEGLIGIBLE * largest[row.kind, (row.width, row.seed)] for row in rows]
    # Not ">", so that nan is not negligible.
    negligible = [row.value <= floor for row, floor in zip(rows, floors, strict=True)]
    exponent = interval = curvature = None
    if not all(math.isfinite(row.value) for row in rows):
        exponent = math.nan
    elif rows and not any(negligible):
        points = [_points(rows, seed) for seed in seeds]
        slopes = [_slope(p) for p in points]
        exponent, interval = fmean(slopes), mean_interval(slopes)
        n, whole = len(widths), [p for p in points if len(p) == len(widths)]
        if n > 2 and whole:
            curvature = fmean(_slope(p[(n - 1) // 2 :]) - _slope(p[: n // 2 + 1]) for p in whole)
    return Fit(
        tensor=first.tensor,
        kind=first.kind,
        step=first.step,
        finite=first.finite,
        exponent=exponent,
        interval=interval,
        curvature=curvature,
        inactive=fmean(negligible) if rows else 0.0,
        seeds=len(seeds),
        missing=len(asked) - len(seeds),
        source=_source(rows, seeds),
    )


def _source(rows: Sequence[Row], seeds: Sequence[int]) -> float | None:
    """The exponent of the sources; None if one is not known, zero or not finite."""
    if not rows or not all(row.source and math.isfinite(row.source) for row in rows):
        return None
    sources = [replace(row, value=cast(float, row.source)) for row in rows]
    return fmean(_slope(_points(sources, seed)) for seed in seeds)


def _points(rows: Iterable[Row], seed: int) -> list[tuple[float, float]]:
    """log2(width) and log2(value) - expected of one seed, by width."""
    return sorted(
        (math.log2(row.width), math.log2(row.value) - (row.expected or 0.0))
        for row in rows
        if row.seed == seed
    )


def _slope(points: Sequence[tuple[float, float]]) -> float:
    x, y = zip(*points, strict=True)
    return linear_regression(x, y).slope
