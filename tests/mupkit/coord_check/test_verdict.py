"""How exponents become verdicts."""

from __future__ import annotations

import dataclasses
import math

import pytest

from mupkit.coord_check import Report, report
from mupkit.coord_check.statistics import Fit
from mupkit.coord_check.verdict import judge


def measured(exponent, half=0.05, kind="change", tensor="x", finite=False, inactive=0.0):
    """A fit with a symmetric interval, or without one if `half` is None."""
    interval = None if half is None or exponent is None else (exponent - half, exponent + half)
    return Fit(tensor, kind, 3, finite, exponent, interval, 0.0, inactive, 5)


@pytest.mark.parametrize(
    ("fit", "judgement"),
    [
        (measured(0.0), "ok"),
        (measured(0.19), "ok"),
        (measured(0.5), "fails"),
        (measured(0.5, half=0.3), "undecided"),
        (measured(0.0, half=0.3), "undecided"),
        (measured(-1.0), "fails"),
        (measured(0.0, half=None), "undecided"),
        (measured(1.0, half=None), "undecided"),
        (measured(math.nan), "fails"),
        (measured(None, inactive=1.0), "inactive"),
        (measured(None, inactive=0.2), "undecided"),
        # A half power down may be chance, unless it is an activation's at initialization.
        (measured(-0.5), "undecided"),
        (measured(-0.5, kind="update"), "undecided"),
        (measured(-0.5, kind="activation"), "fails"),
        # Outputs and attention logits may vanish at initialization, and must not grow.
        (measured(-0.5, kind="activation", finite=True), "ok"),
        (measured(-1.0, kind="activation", tensor="attention.softmax"), "ok"),
        (measured(-1.0, kind="activation", tensor="attention.softmax#2"), "ok"),
        (measured(0.5, kind="activation", finite=True), "fails"),
        (measured(0.2, half=0.2, kind="activation", finite=True), "undecided"),
        (measured(-1.0, finite=True), "fails"),
    ],
)
def test_judgements(fit, judgement):
    assert judge(fit).judgement == judgement


BOTTLENECK = measured(-0.5, kind="activation", tensor="bottleneck", finite=True)


@pytest.mark.parametrize(
    ("exponent", "source", "before", "judgement"),
    [
        (-0.5, -0.5, BOTTLENECK, "ok"),
        (-0.5, -0.5, None, "fails"),  # nothing explains that the input shrinks
        (-0.5, 0.0, BOTTLENECK, "fails"),  # the layer itself makes it shrink
        (-1.0, -0.5, BOTTLENECK, "fails"),
        (-0.5, None, BOTTLENECK, "fails"),
        (0.5, -0.5, BOTTLENECK, "fails"),
    ],
)
def test_behind_a_bottleneck(exponent, source, before, judgement):
    layer = dataclasses.replace(measured(exponent, kind="activation"), source=source)
    assert judge(layer, before).judgement == judgement
    found = {v.fit.tensor: v for v in report([*filter(None, [before]), layer]).verdicts}
    assert found["x"].judgement == judgement
    later = {v.fit.tensor: v for v in report([layer, BOTTLENECK]).verdicts}
    assert later["x"].judgement == "fails", "what comes later explains nothing"


LOGITS = {"block.attention": -0.5, "right": 0.0, "root": 0.5}


@pytest.mark.parametrize(
    ("tensor", "exponent", "judgement"),
    [
        ("block.attention.softmax", -0.5, "fails"),
        ("block.attention.softmax#2", -0.5, "fails"),
        ("block.attention.softmax", 0.0, "ok"),  # what is measured comes first
        ("right.softmax", -0.5, "ok"),
        ("right.softmax", -0.75, "undecided"),  # more than chance
        ("right.softmax", -1.0, "fails"),
        ("right.softmax", 0.3, "fails"),
        ("root.softmax", -0.5, "undecided"),
        ("unseen.softmax", -0.5, "undecided"),
        ("right", -0.5, "undecided"),  # no logits
    ],
)
def test_the_factor_of_attention_decides_what_chance_hides(tensor, exponent, judgement):
    (verdict,) = report([measured(exponent, tensor=tensor, half=0.04)], (), LOGITS).verdicts
    assert verdict.judgement == judgement


def test_a_tensor_that_is_missing_in_some_seeds():
    seen = dataclasses.replace(measured(0.0), seeds=3, missing=2)
    assert judge(seen).judgement == "ok"
    assert str(report([seen])).splitlines()[2].endswith("in 3 of 5 seeds")
    seldom = dataclasses.replace(measured(0.0, half=None), seeds=1, missing=4)
    assert judge(seldom).judgement == "undecided"
    assert judge(seldom).reason == "in 1 of 5 seeds: a larger batch"


def test_the_report_passes_if_nothing_fails_and_nothing_is_open():
    good, idle = measured(0.0), measured(None, inactive=1.0)
    assert report([good, idle]).passed
    assert not report([good, measured(1.0)]).passed
    assert not report([good, measured(0.0, half=0.4)]).passed


def test_a_report_without_anything_to_judge_does_not_pass():
    assert not report([]).passed
    assert not report([measured(None, inactive=1.0)]).passed


def test_trouble_comes_first():
    fits = [
        measured(0.01, tensor="fine"),
        measured(0.6, tensor="bad"),
        measured(0.0, half=1, tensor="open"),
        measured(None, inactive=1.0, tensor="idle"),
        measured(-2.0, tensor="worse"),
    ]
    found = report(fits)
    assert [v.fit.tensor for v in found.verdicts] == ["worse", "bad", "open", "fine", "idle"]
    assert [v.fit.tensor for v in found.failures] == ["worse", "bad"]
    assert [v.fit.tensor for v in found.undecided] == ["open"]


def test_the_text_and_the_table():
    found: Report = report([measured(0.6, tensor="layer"), measured(0.0)])
    first, header, trouble, *_ = str(found).splitlines()
    assert first == "not passed: 1 fails, 1 ok"
    assert header.split()[:3] == ["verdict", "kind", "tensor"]
    assert trouble.split()[:4] == ["fails", "change", "layer", "+0.600"]
    row = found.table()[0]
    assert (row["tensor"], row["judgement"], row["theory"]) == ("layer", "fails", "= 0")
    assert row["reason"] == "grows with width"
