"""Transfer statistics against closed forms on synthetic landscapes."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.analysis import transfer
from experiments.analysis.transfer import Landscape

WIDTHS = np.array([32, 64, 128, 256])
RATES = np.arange(-16.0, -1.0)
INF, NAN = math.inf, math.nan

quick = settings(deadline=None, max_examples=50, derandomize=True)
starts, slopes = st.floats(-9, -7), st.floats(-1.5, 1.0)  # optima stay inside RATES
curvatures, noise_seeds = st.floats(0.05, 2), st.integers(0, 2**32 - 1)


def bowls(start, slope, curvature=0.1, gain=0.05, noise=0.0) -> Landscape:
    """Quadratic bowls: a doubling moves the optimum `slope` octaves, lowers the floor by `gain`.

    `noise` is added to the losses; its first axis is the seeds.
    """
    doublings = np.log2(WIDTHS / WIDTHS[0])[:, None]
    losses = 4 - gain * doublings + curvature * (RATES - (start + slope * doublings)) ** 2
    return Landscape(losses[None] + noise, WIDTHS, RATES)


def shared_noise(number: int, seeds: int) -> np.ndarray:
    """Noise (S, 1, 1) that all runs of a seed share; pairing cancels it."""
    return np.random.default_rng(number).normal(0, 0.3, (seeds, 1, 1))


def landscape_of(losses) -> Landscape:
    """A landscape of given losses (S, W, R)."""
    losses = np.asarray(losses, float)
    return Landscape(losses, WIDTHS[: losses.shape[1]], RATES[: losses.shape[2]])


def table() -> pd.DataFrame:
    """A tidy table of two parametrizations whose losses tell seed, width and rate apart."""
    rows = [
        {
            "parametrization": p,
            "seed": seed,
            "width": width,
            "log2lr": rate,
            "final_loss": (10 if p == "mup" else 0) + seed + width / 1000 - rate / 10,
            "diverged": False,
        }
        for p, seed, width, rate in itertools.product(
            ("sp", "mup"), (0, 1), (32, 128), (-8, -7, -6)
        )
    ]
    return pd.DataFrame(rows)


@given(order=st.permutations(range(len(table()))))
@quick
def test_landscape_does_not_depend_on_the_order_of_rows(order) -> None:
    scape = transfer.landscape(table().iloc[order], "mup")
    assert scape.sizes.tolist() == [32, 128]
    assert scape.grid.tolist() == [-8, -7, -6]
    seed, width, rate = np.meshgrid([0, 1], [32, 128], [-8, -7, -6], indexing="ij")
    np.testing.assert_allclose(scape.losses, 10 + seed + width / 1000 - rate / 10)


def test_diverged_run_is_infinite_whatever_its_loss() -> None:
    runs = table()
    runs.loc[[0, 13], "diverged"] = True
    runs.loc[0, "final_loss"] = NAN
    sp, mup = (transfer.landscape(runs, p).losses for p in ("sp", "mup"))
    assert np.argwhere(np.isinf(sp)).tolist() == [[0, 0, 0]]
    assert np.argwhere(np.isinf(mup)).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    "broken",
    [
        table().drop(index=3),
        pd.concat([table(), table().iloc[[3]]]),
        pd.concat([table().drop(index=3), table().iloc[[4]]]),
        table().query("parametrization == 'mup'"),
        table().assign(final_loss=NAN),
    ],
    ids=["missing", "doubled", "one missing, one doubled", "no runs", "no loss, not diverged"],
)
def test_landscape_refuses_a_broken_table(broken) -> None:
    with pytest.raises(ValueError, match=r"^sp: "):
        transfer.landscape(broken, "sp")


@given(
    st.floats(-6, 6),
    curvatures,
    st.sampled_from([0.25, 0.5, 1, 2]),
    st.integers(0, 100),
)
@quick
def test_fitted_optimum_is_the_vertex(vertex, curvature, step, shift) -> None:
    log2lr = step * (np.arange(15) - 7) + shift  # the vertex is inside, in units of the step
    loss = 3 + curvature * ((log2lr - shift) / step - vertex) ** 2
    assert transfer.fitted_optimum(log2lr, loss) == pytest.approx(vertex * step + shift, abs=1e-9)


@pytest.mark.parametrize("vertex", [-30, RATES[0], RATES[-1], 5])
def test_fitted_optimum_at_the_edge_is_nan(vertex) -> None:
    assert math.isnan(transfer.fitted_optimum(RATES, (RATES - vertex) ** 2))


@given(st.floats(-14, -3), st.sampled_from([(-1,), (1,), (-1, 1)]))
@quick
def test_fitted_optimum_beside_a_diverged_run_is_the_grid_point(vertex, neighbours) -> None:
    loss = (RATES - vertex) ** 2
    best = int(np.argmin(loss))
    for neighbour in neighbours:
        loss[best + neighbour] = INF
    assert transfer.fitted_optimum(RATES, loss) == RATES[best]


@pytest.mark.parametrize(
    ("losses", "optimum"),
    [
        ([INF] * 5, NAN),
        ([2.0] * 5, NAN),  # no rate matters: the best is anywhere
        ([3.0, 2.0], NAN),
        ([2.0], NAN),
        ([5.0, 3.0, 3.0, 5.0], RATES[1] + 0.5),  # the midpoint of two equally good rates
    ],
)
def test_fitted_optimum_of_degenerate_curves(losses, optimum) -> None:
    fitted = transfer.fitted_optimum(RATES[: len(losses)], np.array(losses))
    assert fitted == pytest.approx(optimum, abs=1e-12, nan_ok=True)


def test_grid_optimum_and_diverged_sizes() -> None:
    mean = np.array([[3.0, 1, 2], [INF, 2, 1], [INF, INF, INF]])
    assert transfer.grid_optimum(mean)[:2].tolist() == [1, 2]
    assert transfer.diverged_sizes(mean).tolist() == [False, False, True]


@given(starts, slopes, curvatures, noise_seeds)
@quick
def test_drift_is_the_slope_of_the_optimum(start, slope, curvature, number) -> None:
    scape = bowls(start, slope, curvature, noise=shared_noise(number, seeds=3))
    assert transfer.drift_per_doubling(scape) == pytest.approx(slope, abs=1e-9)
    one = transfer.drift_per_doubling(scape, scape.losses[[2, 2, 2]])
    assert one == pytest.approx(slope, abs=1e-9)


def test_drift_is_a_least_squares_slope_in_octaves() -> None:
    rows = [(RATES - vertex) ** 2 for vertex in (-8.0, -8.0, -9.5)]
    scape = Landscape(np.array([rows]), np.array([32, 64, 512]), RATES)  # 0, 1 and 4 doublings
    assert transfer.drift_per_doubling(scape) == pytest.approx(-10.5 / 26)


@pytest.mark.parametrize(
    "losses",
    [
        [[3.0, 1, 2], [2, 3, 4]],
        [[3.0, 1, 2], [INF, INF, INF]],
        [[3.0, 1, 2]],
    ],
    ids=["optimum at the edge", "a width diverged", "one width"],
)
def test_drift_that_cannot_be_measured_is_nan(losses) -> None:
    assert math.isnan(transfer.drift_per_doubling(landscape_of([losses])))


def nearest(vertex: float) -> float:
    """The grid point nearest to an optimum that is not halfway between two."""
    assume(abs(vertex % 1 - 0.5) > 1e-6)
    return float(RATES[np.argmin(np.abs(RATES - vertex))])


@given(starts, slopes, curvatures, noise_seeds)
@quick
def test_regret_is_the_closed_form(start, slope, curvature, number) -> None:
    end = start + 3 * slope
    cost = curvature * ((nearest(start) - end) ** 2 - (nearest(end) - end) ** 2)
    scape = bowls(start, slope, curvature, noise=shared_noise(number, seeds=2))
    assert transfer.regret(scape) == pytest.approx(cost, abs=1e-9)
    assert transfer.regret(scape, scape.losses[[1, 1]]) == pytest.approx(cost, abs=1e-9)


@pytest.mark.parametrize(
    ("losses", "regret"),
    [
        ([[3, 1, 2], [2, 1.5, 1]], 0.5),
        ([[3, 1, 2], [2, INF, 4]], INF),
        ([[INF, 1, INF], [INF, 3, INF]], 0),
        ([[INF, INF, INF], [2, 1.5, 1]], NAN),
        ([[3, 1, 2], [INF, INF, INF]], NAN),
    ],
)
def test_regret_with_diverged_runs(losses, regret) -> None:
    assert transfer.regret(landscape_of([losses])) == pytest.approx(regret, nan_ok=True)


@pytest.mark.parametrize(
    ("losses", "kept", "picks"),
    [
        ([[3, 2, 2.5], [2, 1, 1.5]], 1, [0, 1, 0.5]),
        ([[3, 2, 2.5], [1, 1.5, 2]], 0.5, [1, 0.5, 0]),
        ([[3, 2, 2.5], [1, 3, 2]], -1, [1, -1, 0]),  # worse than the small model
        ([[3, 2, 2.5], [1, INF, 2]], -INF, [1, -INF, 0]),
        ([[3, 2, 2.5], [3, 2, 2.5]], NAN, [NAN] * 3),  # no gain to keep
        ([[3, 2, 2.5], [INF, INF, INF]], NAN, [NAN] * 3),
        ([[INF, INF, INF], [3, 2, 2.5]], NAN, [NAN] * 3),
    ],
)
def test_kept_gain(losses, kept, picks) -> None:
    scape = landscape_of([losses, losses])
    assert transfer.kept_gain(scape) == pytest.approx(kept, nan_ok=True)
    assert transfer.kept_gain(scape, scape.losses[[1]]) == pytest.approx(kept, nan_ok=True)
    assert transfer.pick_kept_gains(scape) == pytest.approx(picks, nan_ok=True)


@given(starts, slopes, curvatures, noise_seeds)
@quick
def test_picks_hold_what_the_proxy_picks(start, slope, curvature, number) -> None:
    scape = bowls(start, slope, curvature, 0.1, shared_noise(number, seeds=2))
    at = int(np.argmin(scape.losses.mean(axis=0)[0]))
    assert transfer.pick_regrets(scape)[at] == pytest.approx(transfer.regret(scape))
    assert transfer.pick_regrets(scape).min() == 0
    kept, picks = transfer.kept_gain(scape), transfer.pick_kept_gains(scape)
    assert picks[at] == pytest.approx(kept, nan_ok=True)
    assert np.isnan(kept) or picks.max() == pytest.approx(1)


def test_blind_optima_are_uniform_and_repeatable() -> None:
    scape = bowls(-6, 0, 0.1)
    found = transfer.blind_optima(scape)
    assert found.shape == (transfer.BLIND, len(scape.sizes))
    shares = np.bincount(found.ravel(), minlength=len(RATES)) / found.size
    assert np.abs(shares * len(RATES) - 1).max() < 0.1
    assert (found == transfer.blind_optima(scape)).all()


@given(starts, starts, curvatures, noise_seeds)
@quick
def test_best_difference_is_that_of_the_widest_models(left, right, curvature, number) -> None:
    noise = shared_noise(number, seeds=2)
    one, two = bowls(left, 0, curvature, 0.07, noise), bowls(right, 0, curvature, 0.02, noise)
    off = [nearest(x) - x for x in (left, right)]
    expected = 3 * (0.02 - 0.07) + curvature * (off[0] ** 2 - off[1] ** 2)
    assert transfer.best_difference(one.losses, two.losses) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("left", "right", "difference"), [(INF, 1, INF), (1, INF, -INF), (INF, INF, NAN)]
)
def test_best_difference_with_diverged_models(left, right, difference) -> None:
    def scape(loss):
        return np.array([[[1.0, 2.0], [loss, INF]]])

    measured = transfer.best_difference(scape(left), scape(right))
    assert measured == pytest.approx(difference, nan_ok=True)


@pytest.mark.parametrize(("seeds", "resamples"), [(2, 4), (3, 27), (4, 256)])
def test_bootstrap_takes_every_resample_once(seeds, resamples) -> None:
    seen = []

    def statistic(index):
        seen.append(tuple(index))
        return float(sum(index))

    transfer.bootstrap(statistic, seeds)
    assert len(seen) == resamples
    assert set(seen) == set(itertools.product(range(seeds), repeat=seeds))


def test_bootstrap_of_many_seeds_is_random_and_repeatable() -> None:
    values = np.random.default_rng(0).normal(size=40)
    low, high = transfer.bootstrap(lambda index: values[index].mean(), 40)
    error = values.std() / math.sqrt(40)
    assert (low, high) == transfer.bootstrap(lambda index: values[index].mean(), 40)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=4))
@quick
def test_bootstrap_contains_the_mean(values) -> None:
    low, high = transfer.bootstrap(lambda index: float(np.array(values)[index].mean()), len(values))
    assert low - 1e-12 <= np.mean(values) <= high + 1e-12
    assert min(values) - 1e-12 <= low
    assert high <= max(values) + 1e-12
    if max(values) - min(values) > 1e-6:
        assert low < high


def test_bootstrap_of_two_seeds_by_hand() -> None:
    # Resample means 0, 2, 2, 4: the 2.5 and 97.5 percentiles are 0.075 of a step from the ends.
    interval = transfer.bootstrap(lambda index: float(np.array([0.0, 4.0])[index].mean()), 2)
    assert interval == pytest.approx((0.15, 3.85))


def test_bootstrap_without_an_interval() -> None:
    losses = np.array([1.0, 2.0, INF])
    assert transfer.bootstrap(lambda index: 1.0, 0) is None
    assert transfer.bootstrap(lambda index: 1.0, 1) is None
    assert transfer.bootstrap(lambda index: 0.7, 3) == (0.7, 0.7)  # equal seeds
    assert transfer.bootstrap(lambda index: losses[index].mean(), 3) == (1.0, INF)  # the range
    assert transfer.bootstrap(lambda index: NAN if index[0] else 1.0, 2) is None


def cell_noise(number: int, seeds: int, size: float) -> np.ndarray:
    """Independent noise of every run."""
    return np.random.default_rng(number).normal(0, size, (seeds, len(WIDTHS), len(RATES)))


@given(noise_seeds, st.integers(2, 5))
@quick
def test_widening_is_negative_where_wider_is_always_better(number, seeds) -> None:
    scape = bowls(-6, 0, noise=cell_noise(number, seeds, 0.005) + shared_noise(number, seeds))
    assert transfer.worst_widening(scape, 10) < 0


@given(noise_seeds, st.integers(2, 5), st.integers(0, 3), st.integers(0, 14))
@quick
def test_widening_sees_one_worse_cell_up_to_its_rate(number, seeds, width, rate) -> None:
    scape = bowls(-6, 0, noise=cell_noise(number, seeds, 0.005))
    scape.losses[:, width, rate] += 0.2 if width else -0.2  # worse than the next narrower one
    assert transfer.worst_widening(scape, rate) > 1
    if rate:
        assert transfer.worst_widening(scape, rate - 1) < 0


@pytest.mark.parametrize("seeds", [2, 5])
def test_widening_has_its_nominal_rate_of_false_alarms(seeds) -> None:
    alarms = sum(
        transfer.worst_widening(landscape_of(cell_noise(number, seeds, 1.0)), 5) > 1
        for number in range(400)
    )
    assert 0.02 < alarms / 400 < 0.09


def test_widening_by_hand() -> None:
    # One cell; differences 1 and 3: mean 2, standard error 1, t(0.95, 1) = 6.3138.
    scape = landscape_of([[[4.0], [5.0]], [[4.0], [7.0]]])
    assert transfer.worst_widening(scape, 0) == pytest.approx(2 / 6.313752)


@pytest.mark.parametrize(
    ("losses", "widening"),
    [
        ([[[4, 4], [3, 5]]], NAN),
        ([[[4, 4]], [[3, 5]]], NAN),
        ([[[4, 4], [3, INF]], [[4, 4], [3, 5]]], INF),
        ([[[4, INF], [3, INF]], [[4, INF], [3, INF]]], INF),
        ([[[4, 4], [3, 5]]] * 2, INF),
        ([[[4, 6], [3, 5]]] * 2, -INF),
        ([[[4, 5], [3, 5]]] * 2, 0),
    ],
    ids=[
        "one seed",
        "one width",
        "a diverged run",
        "a diverged rate",
        "worse without noise",
        "better without noise",
        "equal without noise",
    ],
)
def test_widening_of_degenerate_landscapes(losses, widening) -> None:
    measured = transfer.worst_widening(landscape_of(losses), 1)
    assert measured == pytest.approx(widening, nan_ok=True)


@given(starts, curvatures, noise_seeds)
@quick
def test_rank_correlation_is_one_for_landscapes_that_only_shift_in_height(start, curv, number):
    scape = bowls(start, 0, curv, noise=shared_noise(number, seeds=2))
    assert transfer.rank_correlation(scape) == pytest.approx(1)
    assert transfer.rank_correlation(scape, -scape.losses) == pytest.approx(1)


@pytest.mark.parametrize(
    ("losses", "correlation"),
    [
        ([[1, 2, 3], [6, 5, 4]], -1),
        ([[1, 2, 3], [1, 20, 300]], 1),
        ([[1, 2, INF], [1, 3, 2]], 0.5),
        ([[1, INF, INF], [1, INF, INF]], 1),  # diverged runs are equals
        ([[2, 2, 2], [1, 2, 3]], NAN),
        ([[1, 2], [1, 2]], NAN),
    ],
)
def test_rank_correlation_by_hand(losses, correlation) -> None:
    found = transfer.rank_correlation(landscape_of([losses]))
    assert found == pytest.approx(correlation, nan_ok=True)


@given(st.integers(2, 12), st.floats(0.51, 5))
@quick
def test_onset_is_where_a_planted_instability_begins(at, height) -> None:
    losses = 3 + 0.001 * (np.arange(len(RATES)) - 1) ** 2 + height * (np.arange(len(RATES)) >= at)
    assert transfer.onset(landscape_of([[losses]])).tolist() == [RATES[at]]


@pytest.mark.parametrize(
    ("losses", "onset"),
    [
        ([3.0, 2, 2.4, 2.4], NAN),
        ([3.0, 2, INF, 2.1], RATES[2]),
        ([9.0, 2, 2.4, 3], RATES[3]),  # below the optimum nothing counts
        ([INF, INF, INF, INF], NAN),
    ],
)
def test_onset_by_hand(losses, onset) -> None:
    found = transfer.onset(landscape_of([[losses]]))
    assert found.tolist() == pytest.approx([onset], nan_ok=True)


def over_time(*models) -> np.ndarray:
    """Losses (S, W, T) of seeds that differ by what all widths share."""
    return np.array(models)[None] + np.array([0.0, 1, 5])[:, None, None]


def test_order_is_violated_where_a_wider_model_is_worse() -> None:
    curves = over_time([3.0, 2, 1], [2.0, 2, 1.5], [1.0, 1, 1])
    assert transfer.order_violated(curves).tolist() == [False, False, True]
    assert transfer.order_violated(curves, np.full(3, 0.6)).tolist() == [False] * 3


def test_order_with_diverged_models() -> None:
    curves = over_time([3.0, 2, INF], [2.0, INF, INF], [1.0, 1, 1])
    assert transfer.order_violated(curves).tolist() == [False, True, False]
    lost = over_time([3.0, 2, 2], [2.0, INF, INF])
    assert transfer.order_violated(lost).tolist() == [False, True, True]


@pytest.mark.parametrize("seeds", [2, 5])
def test_order_has_its_nominal_rate_of_false_alarms(seeds) -> None:
    noise = np.random.default_rng(0).normal(size=(seeds, 4, 4000))
    assert 0.02 < transfer.order_violated(noise).mean() < 0.09


def test_noise_bound_by_hand() -> None:
    # One pair; differences 1 and 3: standard error 1, t(0.95, 1) = 6.3138.
    curves = np.array([[[4.0], [5.0]], [[4.0], [7.0]]])
    assert transfer.noise_bound(curves) == pytest.approx([6.313752])
    assert transfer.noise_bound(curves[:1]).tolist() == [INF]
    assert transfer.noise_bound(curves[:, :1]).tolist() == [INF]


def test_landscape_along_another_dimension_and_of_another_key() -> None:
    runs = table().rename(columns={"width": "n_layer", "log2lr": "beta2"})
    runs["beta2"] = 1 - 2.0 ** runs["beta2"]
    scape = transfer.landscape(runs, "mup", "beta2", "n_layer", lambda b: -math.log2(1 - b))
    assert scape.sizes.tolist() == [32, 128]
    assert scape.grid.tolist() == [6, 7, 8]
    assert scape.losses[0, 0].tolist() == pytest.approx([10.632, 10.732, 10.832])
