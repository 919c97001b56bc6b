"""Exponents of synthetic measurements, and their intervals."""

from __future__ import annotations

import math
import random

import pytest
from scipy import stats

from mupkit.coord_check.record import Row
from mupkit.coord_check.statistics import T_975, fit, mean_interval, t_quantile

WIDTHS = (64, 128, 256, 512)


def rows(value, *, kind="change", step=3, seeds=5, tensor="x", expected=None, finite=False):
    """Rows of one tensor whose size is value(width, seed), and a unit one beside it."""
    made = []
    for width in WIDTHS:
        for seed in range(seeds):
            theory = expected(width) if expected else None
            size = value(width, seed)
            made.append(Row(width, seed, step, tensor, kind, size, finite, theory))
            made.append(Row(width, seed, step, "unit", kind, 1.0, finite, 0.0))
    return made


def fit_of(measured):
    return next(f for f in fit(measured) if f.tensor == "x")


def noise(width, seed, size=0.05):
    return math.exp(random.Random(f"{width} {seed}").gauss(0, size))


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5, 2.0])
def test_exponents_are_found(exponent):
    found = fit_of(rows(lambda width, seed: 3 * width**exponent))
    assert found.exponent == pytest.approx(exponent)
    assert found.interval == pytest.approx((exponent, exponent))
    assert found.curvature == pytest.approx(0)
    assert (found.seeds, found.step, found.inactive) == (5, 3, 0)


def test_theory_is_subtracted():
    measured = rows(lambda w, s: w**-0.5, kind="update", expected=lambda w: -math.log2(w))
    assert fit_of(measured).exponent == pytest.approx(0.5)


def test_the_interval_is_that_of_the_seeds_slopes():
    measured = rows(lambda w, s: w ** (0.1 * s), seeds=4)
    found = fit_of(measured)
    low, high = stats.t.interval(0.95, 3, 0.15, stats.sem([0, 0.1, 0.2, 0.3]))
    assert found.interval == pytest.approx((low, high), abs=1e-3)


def test_a_factor_that_a_seed_shares_over_widths_does_not_widen_the_interval():
    found = fit_of(rows(lambda w, s: 10.0**s * w**0.3))
    assert found.interval == pytest.approx((0.3, 0.3))


def test_noise_is_covered():
    found = fit_of(rows(lambda w, s: w**0.5 * noise(w, s), seeds=8))
    assert found.interval[0] < 0.5 < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.2


def test_one_seed_gives_no_interval():
    assert fit_of(rows(lambda w, s: 1.0, seeds=1)).interval is None


def test_curvature_tells_an_exponent_that_vanishes():
    found = fit_of(rows(lambda w, s: 1 + 100 / w))
    assert found.exponent < 0 < found.curvature


def test_zero_and_rounding_noise_are_inactive():
    assert fit_of(rows(lambda w, s: 0.0)).inactive == 1
    assert fit_of(rows(lambda w, s: 1e-12)).inactive == 1
    assert fit_of(rows(lambda w, s: 1e-12)).exponent is None
    assert fit_of(rows(lambda w, s: 0.0 if w == 64 else 1.0)).inactive == pytest.approx(0.25)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_is_no_number(value):
    found = fit_of(rows(lambda w, s: value if w == 512 else 1.0))
    assert math.isnan(found.exponent)


def test_which_steps_count():
    """Activations at step 0, changes at the last, updates all together."""

    def with_steps(kind):
        early = rows(lambda w, s: 1.0, kind=kind, step=0 if kind == "activation" else 1)
        return fit_of(early + rows(lambda w, s: w**1.0, kind=kind, step=3))

    assert with_steps("activation").exponent == pytest.approx(0)
    assert with_steps("change").exponent == pytest.approx(1)
    assert with_steps("update").exponent == pytest.approx(1, abs=1e-3)


def test_quantiles_are_those_of_students_t():
    for degrees in range(1, len(T_975) + 1):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=6e-4)
    assert t_quantile(1000) == pytest.approx(stats.t.ppf(0.975, 1000), abs=3e-3)


def test_mean_interval_needs_two_values():
    assert mean_interval([1.0]) is None
    assert mean_interval([1.0, 1.0]) == (1.0, 1.0)
