"""Random search as trials, against enumeration, simulation and closed forms on synthetic pools."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.analysis import style, trial_pictures, trials
from experiments.analysis.trials import Pool
from experiments.analysis.verdicts import decide
from experiments.declare.claims import Claim

INF, NAN = math.inf, math.nan


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def pool_of(losses, outcomes, flops=1.0, flops_after=0.0) -> Pool:
    return Pool(np.array(losses, float), np.array(outcomes, float), flops, flops_after)


def drawn(rng, size, noise, top=18.0, diverging=0.1, flops=1.0, flops_after=0.0) -> Pool:
    """A pool of random samples; `noise` is that of the losses, which a proxy has more of."""
    quality = rng.exponential(1.0, size)
    losses = 3 + quality + rng.normal(0, noise, size)
    losses[rng.random(size) < diverging] = INF
    outcomes = np.maximum(top - 5 * quality + rng.normal(0, 0.2, size), 0)
    return Pool(losses, outcomes, flops, flops_after)


def simulated(pool, samples, sets, trials_of_set, rng) -> np.ndarray:
    """Outcomes (sets, trials) of searches that are carried out."""
    draws = rng.integers(len(pool.losses), size=(sets, trials_of_set, samples))
    winners = np.take_along_axis(
        draws, pool.losses[draws].argmin(axis=2, keepdims=True), axis=2
    ).squeeze(2)
    return np.where(np.isinf(pool.losses[winners]), -INF, pool.outcomes[winners])


@pytest.mark.parametrize(("size", "samples"), [(1, 3), (5, 1), (5, 3), (4, 5)])
def test_chances_are_those_of_all_trials(size, samples) -> None:
    winners = [min(draw) for draw in itertools.product(range(size), repeat=samples)]
    expected = np.bincount(winners, minlength=size) / len(winners)
    np.testing.assert_allclose(trials.winning_chances(size, samples), expected)


@pytest.mark.parametrize(("set_of", "at"), [(25, (25, 50, 75, 100)), (3, (0, 50, 100))])
def test_percentiles_are_the_medians_of_those_of_simulated_sets_of_trials(set_of, at) -> None:
    rng = np.random.default_rng(0)
    pool = drawn(rng, 40, 0.3)
    found = trials.percentiles(pool, 4, at, set_of)
    many = np.sort(simulated(pool, 4, 4000, set_of, rng), axis=1)
    places = [int(p / 100 * (set_of - 1)) for p in at]
    expected = np.quantile(many[:, places], 0.5, axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(found, expected)
    assert (np.diff(found) > 0).all()


def test_one_sample_gives_the_pool_itself() -> None:
    pool = pool_of(range(101), range(101))
    assert trials.percentiles(pool, 1, (50,), 1) == 50
    assert trials.percentiles(pool, 101, (50,), 1) == 0  # only the lowest loss counts


def test_outcomes_are_of_the_winner_by_loss_not_of_the_best_outcome() -> None:
    pool = pool_of([1, 2, 3], [10, 30, 20])
    assert trials.percentiles(pool, 50, (0, 50, 100)).tolist() == [10, 10, 10]


def test_a_trial_diverges_if_all_its_samples_do_or_its_target_does() -> None:
    assert trials.percentiles(pool_of([1, INF, INF], [10, NAN, NAN]), 1, (50,)) == -INF
    assert trials.percentiles(pool_of([1, INF, INF], [10, NAN, NAN]), 2, (50,)) == 10  # 5 of 9
    assert trials.percentiles(pool_of([1, 2, 3], [-INF, 9, 8]), 9, (50,)) == -INF
    assert trials.percentiles(pool_of([INF, INF], [NAN, NAN]), 3).tolist() == [-INF] * 4


@pytest.mark.parametrize(("size", "samples"), [(64, 1), (64, 16), (48, 5)])
def test_contenders_win_nearly_all_trials_of_resampled_pools(size, samples) -> None:
    rng = np.random.default_rng(1)
    losses = drawn(rng, size, 0.1).losses
    few = trials.contenders(losses, samples)
    assert losses[few].tolist() == sorted(losses[np.isfinite(losses)])[: len(few)]
    resamples = rng.integers(size, size=(20_000, size))
    draws = np.take_along_axis(resamples, rng.integers(size, size=(20_000, samples)), axis=1)
    winners = draws[np.arange(len(draws)), losses[draws].argmin(axis=1)]
    finite = np.isfinite(losses[winners])
    assert (finite & ~np.isin(winners, few)).mean() <= trials.UNTRAINED + 0.003
    if len(few) < np.isfinite(losses).sum():
        assert (finite & ~np.isin(winners, few[:-1])).mean() > trials.UNTRAINED - 0.003


def test_the_targets_of_contenders_are_enough_and_all_are_needed() -> None:
    rng = np.random.default_rng(2)
    full = drawn(rng, 128, 0.2)
    needed = trials.contenders(full.losses, 16)
    assert len(needed) < 50
    outcomes = np.full(128, NAN)
    outcomes[needed] = full.outcomes[needed]
    sparse = Pool(full.losses, outcomes, 1.0)
    np.testing.assert_allclose(
        trials.percentiles(sparse, 16), trials.percentiles(full, 16), atol=0.1
    )
    assert "left out, as untrained: " in trials.gap_change(sparse, full, 16, 32).note
    with pytest.raises(ValueError, match="may win a trial of 15 samples"):
        trials.percentiles(sparse, 15)
    for untrained in needed[[-1, 3]]:
        outcomes[untrained] = NAN
        with pytest.raises(ValueError, match=f"sample {untrained} may win a trial of 16 samples"):
            trials.percentiles(sparse, 16)


def test_samples_that_a_budget_pays() -> None:
    size, target = 64, 3.3e15
    proxy = pool_of(range(size), range(size), target / 16, target)
    tuned = pool_of(range(size), range(size), target)
    budgets = [target * n for n in (0.5, 1, 2, 3, 5, 100)]
    assert [tuned.affordable(b) for b in budgets] == [1, 1, 2, 3, 5, 64]
    assert [proxy.affordable(b) for b in budgets] == [1, 1, 16, 32, 64, 64]
    assert all(tuned.affordable(tuned.compute(n)) == n for n in range(1, size))
    assert all(proxy.affordable(proxy.compute(n)) == n for n in range(1, size))


@pytest.mark.parametrize(
    ("losses", "outcomes"), [([1, 2], [1]), ([], []), ([1, NAN], [1, 2]), ([[1]], [[1]])]
)
def test_a_broken_pool_is_refused(losses, outcomes) -> None:
    with pytest.raises(ValueError, match="a pool needs"):
        pool_of(losses, outcomes)


def test_least_gain_is_the_least_over_the_budgets() -> None:
    mup = pool_of([1, 2, 3, 4], [20, 20, 20, 20], flops=0.25)
    tuned = pool_of([1, 2, 3, 4], [17, 12, 12, 12])
    budgets = [1.0, 4.0]
    medians = [12, 17]  # with one sample; with four, the best wins 68 % of the trials
    found = trials.least_gain(mup, tuned, budgets)
    assert found.value == 20 - max(medians)
    assert (found.low, found.high) == (3, 8)
    assert sorted(found.picks) == [12 - 17, 12 - 17, 12 - 17, 17 - 17]
    assert trials.least_gain(mup, tuned, budgets[:1]).value == 8
    assert "µTransfer 20.00 (4 of 4 samples), conventional tuning 12.00 (1 of 4" in found.note


def test_spread_is_from_the_25th_percentile_to_the_best() -> None:
    even, wide = (pool_of(range(101), k * np.arange(101)) for k in (1, 3))
    low, best = trials.percentiles(even, 1, (25, 100))
    assert (low, best) == (26, 98)  # medians of the 7th and of the 25th of 25
    assert trials.spread_difference(even, wide, 1.0).value == (1 - 3) * (best - low)
    worst_of_three = trials.percentiles(even, 1, (25, 100), 3)
    expected = -2 * (worst_of_three[1] - worst_of_three[0])
    assert trials.spread_difference(even, wide, 1.0, trials=3).value == expected


@pytest.mark.parametrize(
    ("share", "low", "high"), [(16, 0.95, 1.05), (4, 0.8, 0.97), (1, 0.5, 0.7)]
)
def test_spread_is_too_small_where_a_trial_takes_much_of_the_pool(share, low, high) -> None:
    rng = np.random.default_rng(6)
    samples = 64 // share
    expected = np.ptp(trials.percentiles(drawn(rng, 400_000, 0.2), samples, (25, 100)))
    pools = [drawn(rng, 64, 0.2) for _ in range(300)]
    found = [np.ptp(trials.percentiles(pool, samples, (25, 100))) for pool in pools]
    assert low <= np.mean(found) / expected <= high


def test_naive_transfer_is_held_against_the_lower_of_the_others() -> None:
    naive, mup, tuned = (pool_of([1, 2], [x, x]) for x in (3, 20, 15))
    found = trials.naive_shortfall(naive, mup, tuned, 1.0)
    assert (found.value, found.low, found.high) == (-12, -12, -12)
    assert trials.naive_shortfall(naive, tuned, mup, 1.0).value == -12
    assert found.picks == [0, 0]
    gone = pool_of([1, 2], [-INF, -INF])
    lost = trials.naive_shortfall(gone, mup, tuned, 1.0)
    assert (lost.value, lost.low, lost.high) == (-INF, -INF, -INF)
    assert "naive transfer diverged" in lost.note


def test_a_gap_that_closes() -> None:
    mup = pool_of([1, 2, 3], [18, 9, 9])
    tuned = pool_of([1, 2, 3], [18, 14, 14])
    found = trials.gap_change(mup, tuned, 1, 3)
    assert found.value == (18 - 18) - (14 - 9)
    assert trials.gap_change(tuned, mup, 1, 3).value == 5


def test_two_methods_that_diverge_are_not_compared() -> None:
    gone, fine = pool_of([1, 2], [-INF, -INF]), pool_of([1, 2], [5, 6])
    claim = Claim("x", "", "", "m:f", ">=", 0.0, "BLEU")
    found = trials.least_gain(gone, gone, [1.0])
    assert math.isnan(found.value) and decide(claim, found) == "not judged"
    assert decide(claim, trials.least_gain(fine, gone, [1.0])) == "holds"
    assert decide(claim, trials.least_gain(gone, fine, [1.0])) == "fails"


def test_resamples_without_a_value_may_have_had_any() -> None:
    gone, fine = pool_of([1, 2], [-INF, -INF]), pool_of(range(5), [-INF, 9, 9, 9, 9])
    better = trials.least_gain(fine, gone, [1.0])  # in some resamples both diverge
    worse = trials.least_gain(gone, fine, [1.0])
    assert (better.value, better.low, better.high) == (INF, -INF, INF)
    assert (worse.value, worse.low, worse.high) == (-INF, -INF, INF)


def test_resamples_are_searched_as_the_pool_is() -> None:
    """The best of 64 is missing in 37 % of the resamples, the best five in 0.6 %."""
    ranks = pool_of(range(64), -np.arange(64.0), flops=1 / 64)
    found = trials.least_gain(ranks, pool_of([1, 2], [0, 0]), [1.0])
    assert (found.value, found.high) == (0, 0)
    assert -6 <= found.low <= -3


def test_a_single_sample_has_no_interval() -> None:
    found = trials.least_gain(pool_of([1], [9]), pool_of([1, 2], [7, 7]), [1.0])
    assert (found.value, found.low, found.high) == (2, None, None)
    assert "no interval" in found.note


@pytest.mark.parametrize(("size", "samples"), [(64, 16), (64, 64)])
def test_intervals_cover_the_truth(size, samples) -> None:
    """Also where a trial has as many samples as the pool, which is worse at other statistics."""
    rng = np.random.default_rng(4)

    def target_of(n, noise):
        pool = drawn(rng, 400_000, noise)
        return trials.percentiles(pool_of(pool.losses, pool.outcomes), n, (50,))[0]

    truth = target_of(samples, 0.3) - target_of(3, 0.05)
    hits, repetitions = 0, 60
    for _ in range(repetitions):
        mup, tuned = drawn(rng, size, 0.3, flops=3 / samples), drawn(rng, 24, 0.05)
        found = trials.least_gain(mup, tuned, [3.0])
        hits += found.low <= truth <= found.high
    assert hits / repetitions >= 0.85


def test_a_curve_has_the_cost_and_the_quartiles_of_its_trials() -> None:
    pool = drawn(np.random.default_rng(5), 64, 0.3, flops=0.5, flops_after=8.0)
    curve = trials.curve(pool, (1, 4, 16), 16.0)
    assert curve.samples.tolist() == [1, 4, 16]
    assert curve.compute.tolist() == [8.5 / 16, 10 / 16, 1.0]
    for i, n in enumerate((1, 4, 16)):
        expected = trials.percentiles(pool, n, (25, 50, 75)).tolist()
        assert [curve.low[i], curve.median[i], curve.high[i]] == expected


def curves() -> dict[str, trials.Curve]:
    counts = np.array([1, 4, 16])
    up = np.array([5.0, 10.0, 12.0])
    return {
        "tuned": trials.Curve(counts, counts / 4, up - 2, up, up + 1),
        "mup": trials.Curve(counts, counts / 64, np.array([-INF, 8, 11]), up, up + 1),
        "naive": trials.Curve(
            counts, counts / 64, np.full(3, -INF), np.array([-INF, 4.0, -INF]), up
        ),
    }


def test_picture_against_compute_and_against_samples(tmp_path) -> None:
    given = curves()
    fig = trial_pictures.draw(given, given)
    left, right = fig.axes
    assert (left.get_xscale(), right.get_xscale()) == ("log", "log")
    assert left.get_ylim() == right.get_ylim()
    for ax, field in ((left, "compute"), (right, "samples")):
        lines = {line.get_label(): line for line in ax.lines}
        for method, curve in given.items():
            line = lines[trials.NAME[method]]
            assert line.get_color() == trial_pictures.COLOR[method]
            np.testing.assert_array_equal(line.get_xdata(), getattr(curve, field))
            known = np.isfinite(curve.median)
            np.testing.assert_array_equal(line.get_ydata()[known], curve.median[known])
            assert np.isnan(line.get_ydata()[~known]).all()
        cross = lines["naive transfer, median diverged"]
        assert cross.get_xdata().tolist() == getattr(given["naive"], field)[[0, 2]].tolist()
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "conventional tuning",
        "µTransfer",
        "naive transfer",
        "naive transfer, median diverged",
    ]
    style.save(fig, tmp_path / "picture.png")


def test_picture_where_everything_diverged(tmp_path) -> None:
    lost = np.full(2, -INF)
    gone = trials.Curve(np.array([1, 2]), np.array([0.5, 1.0]), lost, lost, lost)
    style.save(trial_pictures.draw({"naive": gone}, {"naive": gone}), tmp_path / "picture.png")
