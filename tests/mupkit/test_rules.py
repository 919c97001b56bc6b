"""The tables, against the rows of Table 8 written out by hand, and their algebra."""

from __future__ import annotations

import inspect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mupkit
from mupkit import SP, TABLE_8, InfDim, InfShape, rule_for
from mupkit.rules import interpolate, scale

WIDE, FINITE = InfDim(4, 12), InfDim(None, 10)  # a multiplier of 3
WIDER = InfDim(2, 10)  # a multiplier of 5

# kind: shape, embedding?, init std, output multiplier, SGD rate, Adam rate. Width multipliers:
# fan-in 3, fan-out 5 where the kind has them. Source: Tensor Programs V, Table 8 and its caption
# (a bias has fan-in 1); hidden SGD by Appendix J: fan_out / fan_in.
TABLE = {
    "input weight": ([WIDER, FINITE], False, 1, 1, 5, 1),
    "embedding": ([FINITE, WIDER], True, 1, 1, 5, 1),
    "conv input": ([WIDER, FINITE, FINITE, FINITE], False, 1, 1, 5, 1),
    "class token": ([FINITE, FINITE, WIDER], False, 1, 1, 5, 1),
    "bias": ([WIDER], False, 1, 1, 5, 1),
    "hidden weight": ([WIDER, WIDE], False, 3**-0.5, 1, 5 / 3, 1 / 3),
    "square hidden weight": ([WIDE, WIDE], False, 3**-0.5, 1, 1, 1 / 3),
    "conv hidden": ([WIDER, WIDE, FINITE, FINITE], False, 3**-0.5, 1, 5 / 3, 1 / 3),
    "stack of matrices": ([FINITE, WIDE, WIDE], False, 3**-0.5, 1, 1, 1 / 3),
    "output weight": ([FINITE, WIDE], False, 1, 1 / 3, 3, 1),
    "output bias": ([FINITE], False, 1, 1, 1, 1),
    "scalar": ([], False, 1, 1, 1, 1),
    "finite matrix": ([FINITE, FINITE], False, 1, 1, 1, 1),
}


def lr_mult(infshape, family):
    return scale(infshape, rule_for(infshape).lr[family])


@pytest.mark.parametrize("kind", TABLE)
def test_table_8(kind):
    dims, transposed, init_std, multiplier, sgd, adam = TABLE[kind]
    infshape = InfShape(dims, transposed)
    rule = rule_for(infshape)
    assert scale(infshape, rule.init_std) == pytest.approx(init_std, rel=1e-15)
    assert scale(infshape, rule.multiplier) == pytest.approx(multiplier, rel=1e-15)
    assert lr_mult(infshape, "sgd") == pytest.approx(sgd, rel=1e-15)
    assert lr_mult(infshape, "adam") == pytest.approx(adam, rel=1e-15)


@pytest.mark.parametrize("kind", TABLE)
def test_standard_parametrization_scales_the_initialization_alone(kind):
    dims, transposed, *_ = TABLE[kind]
    infshape = InfShape(dims, transposed)
    rule = rule_for(infshape, SP)
    fan_in_scales = infshape.role() in ("hidden", "output")
    assert scale(infshape, rule.init_std) == pytest.approx(3**-0.5 if fan_in_scales else 1)
    others = [rule.multiplier, rule.lr["sgd"], rule.lr["adam"]]
    assert [scale(infshape, exponents) for exponents in others] == [1, 1, 1]


BASE = st.integers(1, 4096)
RATIO = st.integers(1, 256)
ROLE = st.sampled_from(["input", "hidden", "output", "scalar"])


def shape_of(role, base_in, base_out, ratio_in, ratio_out):
    fan_in, fan_out = InfDim(base_in, base_in * ratio_in), InfDim(base_out, base_out * ratio_out)
    return InfShape(
        [
            fan_out if role in ("input", "hidden") else FINITE,
            fan_in if role in ("output", "hidden") else FINITE,
        ]
    )


def quantities(role):
    rule = TABLE_8[role]
    return [rule.init_std, rule.multiplier, rule.lr["sgd"], rule.lr["adam"]]


@settings(derandomize=True, database=None, deadline=None)
@given(ROLE, BASE, BASE, RATIO, RATIO, RATIO, RATIO)
def test_scale_is_multiplicative_in_the_width_ratios(role, base_in, base_out, r1, r2, s1, s2):
    """From width w to r w and on to r s w: the factors multiply."""
    first = shape_of(role, base_in, base_out, r1, r2)
    second = shape_of(role, base_in * r1, base_out * r2, s1, s2)
    whole = shape_of(role, base_in, base_out, r1 * s1, r2 * s2)
    for e in quantities(role):
        assert scale(first, e) * scale(second, e) == pytest.approx(scale(whole, e), rel=1e-12)


@settings(derandomize=True, database=None, deadline=None)
@given(ROLE, BASE, BASE)
def test_scale_is_exactly_1_at_base_width(role, base_in, base_out):
    infshape = shape_of(role, base_in, base_out, 1, 1)
    assert [scale(infshape, e) for e in quantities(role)] == [1, 1, 1, 1]


@settings(derandomize=True, database=None, deadline=None)
@given(BASE, BASE, RATIO, RATIO)
def test_table_8_keeps_updates_the_same_size(base_in, base_out, ratio_in, ratio_out):
    """What the factors must do together, whatever the widths (Appendix J).

    With n the multiplier of fan-in and m of fan-out, backpropagated gradients go as 1/m. Adam moves
    each entry by its rate, SGD by rate * gradient; n aligned entries add up in the output. The
    change of every preactivation, output multiplier included, must be constant.
    """
    for role in ("input", "hidden", "output"):
        infshape = shape_of(role, base_in, base_out, ratio_in, ratio_out)
        fan_in, fan_out = (d.width_mult() for d in infshape.fanin_fanout())
        multiplier = scale(infshape, TABLE_8[role].multiplier)
        sgd, adam = lr_mult(infshape, "sgd"), lr_mult(infshape, "adam")
        assert multiplier * adam * fan_in == pytest.approx(1, rel=1e-12)
        assert multiplier * (sgd * multiplier / fan_out) * fan_in == pytest.approx(1, rel=1e-12)


def test_rules_are_short_in_signatures():
    signature = str(inspect.signature(mupkit.parametrize))
    assert "rules: 'Rules' = mupkit.RULES['3']," in signature
    assert len(signature) < 300
    assert repr(interpolate(SP, TABLE_8, 0.5)) == "<Rules SP->Table 8@0.5>"
