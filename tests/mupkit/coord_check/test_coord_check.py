"""Correct models pass at large rates; every planted mistake is found, and where it is."""

from __future__ import annotations

import dataclasses
import doctest
from functools import partial

import pytest

import mupkit
import mupkit.coord_check
from mupkit.coord_check import coord_check
from tests.mupkit.coord_check import cases
from tests.mupkit.models import PLAIN

mlp = partial(coord_check, widths=cases.WIDTHS, loss=cases.mlp_loss)
transformer = partial(coord_check, widths=cases.WIDTHS, loss=cases.transformer_loss)
quiet = partial(coord_check, widths=cases.WIDTHS, loss=cases.quiet_loss, seeds=range(20))
few_quiet = partial(quiet, seeds=range(5))
SP_TRANSFORMER = partial(cases.transformer, lib=PLAIN, power=0.5)
SQRT = {"power": 0.5}


@pytest.mark.parametrize(
    ("check", "build", "make_optimizer"),
    [
        pytest.param(mlp, cases.mlp, cases.mu_adam, id="mlp-adam"),
        pytest.param(mlp, cases.mlp, cases.mu_sgd, id="mlp-sgd"),
        pytest.param(transformer, cases.transformer, cases.mu_adam, id="transformer-adam"),
        pytest.param(
            transformer, partial(cases.transformer, fused=True), cases.mu_adam, id="fused-adam"
        ),
        pytest.param(
            quiet, partial(cases.transformer, **cases.QUIET), cases.quiet_sgd, id="transformer-sgd"
        ),
    ],
)
def test_correct_models_pass(check, build, make_optimizer):
    report = check(build, make_optimizer=make_optimizer)
    assert report.passed, report


def test_what_shrinks_behind_a_finite_bottleneck_is_no_failure():
    report = mlp(cases.bottleneck, make_optimizer=cases.mu_adam)
    assert not report.failures, report
    behind = {v.fit.tensor: v for v in report.verdicts if v.reason.startswith("shrinks as its")}
    assert behind.keys() == {"3", "1#2", "5", "1#3"}  # and not 2, which is the bottleneck
    assert all(v.judgement == "ok" and v.fit.exponent < -0.25 for v in behind.values())


def test_a_layer_that_shrinks_by_itself_behind_a_bottleneck_fails():
    hidden = dataclasses.replace(mupkit.TABLE_3["hidden"], init_std=(-1, 0))
    rules = dataclasses.replace(
        mupkit.TABLE_3, by_role={**mupkit.TABLE_3.by_role, "hidden": hidden}
    )
    report = mlp(partial(cases.bottleneck, rules=rules), make_optimizer=cases.mu_adam)
    assert {v.fit.tensor for v in report.failures} == {"5"}, report


def test_experts_are_judged_in_the_seeds_that_call_them():
    report = coord_check(
        cases.routed,
        cases.WIDTHS,
        make_optimizer=cases.mu_adam,
        loss=cases.many_inputs_loss,
        most_seeds=20,
    )
    assert report.passed, report
    assert set(report.unchanged) == {f"experts.{i}" for i in range(4)}
    assert "not measured: changes of experts." in str(report)
    assert any(v.fit.missing for v in report.verdicts)


def test_experts_that_are_seldom_called_are_undecided():
    report = mlp(cases.routed, make_optimizer=cases.mu_adam, seeds=range(3))
    assert not report.failures, report
    assert any(v.reason.endswith("of 3 seeds: a larger batch") for v in report.undecided), report


def test_a_wrong_expert_fails():
    report = coord_check(
        cases.routed,
        cases.WIDTHS,
        make_optimizer=cases.unscaled(
            cases.mu_adam, 0.02, *(f"experts.{i}.weight" for i in range(4))
        ),
        loss=cases.many_inputs_loss,
    )
    failing = {v.fit.tensor for v in report.failures}
    assert failing & {f"experts.{i}.weight" for i in range(4)}, report


def test_the_example_runs():
    results = doctest.testmod(mupkit.coord_check)
    assert (results.failed, results.attempted > 0) == (0, True)


HIDDEN_BIASES = ("input.bias", "hidden.bias")
MISTAKES = {
    "plain Adam": (
        *(mlp, cases.mlp, cases.plain_adam),
        {("update", "hidden.weight"): 1, ("change", "hidden"): 1},
    ),
    "plain SGD": (
        *(mlp, cases.mlp, cases.plain_sgd),
        {("update", "input.weight"): -1, ("update", "readout.weight"): -1, ("change", "input"): -1},
    ),
    "SP with Adam": (
        *(mlp, partial(cases.mlp, lib=PLAIN), cases.plain_adam),
        {("update", "hidden.weight"): 1, ("update", "readout.weight"): 1, ("change", "readout"): 1},
    ),
    "SP with SGD": (
        *(mlp, partial(cases.mlp, lib=PLAIN), cases.plain_sgd),
        {("update", "readout.weight"): 1, ("change", "readout"): 0.5},
    ),
    "readout without multiplier": (
        *(mlp, cases.without_multiplier, cases.mu_adam),
        {("update", "readout.weight"): 1, ("change", "readout"): 0.5},
    ),
    "hidden std not scaled": (
        *(mlp, cases.unscaled_std, cases.mu_adam),
        {("activation", "hidden"): 0.5},
    ),
    "bias rate not scaled": (
        *(mlp, cases.mlp, cases.unscaled(cases.mu_sgd, 0.5, *HIDDEN_BIASES)),
        {("update", name): -1 for name in HIDDEN_BIASES},
    ),
    "hidden rate not scaled": (
        *(mlp, cases.mlp, cases.unscaled(cases.mu_adam, 0.02, "hidden.weight")),
        {("update", "hidden.weight"): 1, ("change", "hidden"): 1},
    ),
    "width forgotten in the delta model": (
        *(mlp, cases.forgotten_delta, cases.mu_adam),
        {("update", "hidden.weight"): 1},
    ),
    "1/sqrt(d) attention": (
        *(transformer, partial(cases.transformer, **SQRT), cases.mu_adam),
        {("change", "attention.softmax"): 0.5},
    ),
    "1/sqrt(d) fused attention": (
        *(transformer, partial(cases.transformer, fused=True, **SQRT), cases.mu_adam),
        {("change", "attention.softmax"): 0.5},
    ),
    "1/sqrt(d) attention with SGD": (
        *(few_quiet, partial(cases.transformer, **cases.QUIET, **SQRT), cases.quiet_sgd),
        {("change", "attention.softmax"): 1},
    ),
    "SP Transformer": (
        *(transformer, SP_TRANSFORMER, cases.plain_adam),
        {("update", "ffn_in.weight"): 1, ("change", "attention.softmax"): 2},
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are(mistake):
    check, build, make_optimizer, expected = MISTAKES[mistake]
    report = check(build, make_optimizer=make_optimizer)
    failures = {(v.fit.kind, v.fit.tensor): v.fit.exponent for v in report.failures}
    assert not report.passed
    for place, exponent in expected.items():
        assert failures.get(place) == pytest.approx(exponent, abs=0.5), report


def test_an_unscaled_bias_rate_shows_in_nothing_but_the_updates():
    check, build, make_optimizer, _ = MISTAKES["bias rate not scaled"]
    failures = check(build, make_optimizer=make_optimizer).failures
    assert {(v.fit.kind, v.fit.tensor) for v in failures} == {
        ("update", name) for name in HIDDEN_BIASES
    }


def test_chance_in_attention_under_sgd_is_undecided_and_not_a_failure():
    report = transformer(cases.transformer, make_optimizer=cases.quiet_sgd)
    assert not report.passed
    assert not report.failures, report
    assert {v.fit.tensor.split(".")[1] for v in report.undecided} <= {"softmax", "query", "key"}
