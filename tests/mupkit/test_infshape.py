"""Dimensions, multipliers, fans and roles."""

from __future__ import annotations

import pytest

from mupkit import InfDim, InfShape

FINITE = InfDim(None, 5)
DOUBLE = InfDim(8, 16)
TRIPLE = InfDim(8, 24)


def test_a_finite_dimension_has_multiplier_1():
    assert (FINITE.isinf(), FINITE.width_mult()) == (False, 1.0)
    assert (TRIPLE.isinf(), TRIPLE.width_mult()) == (True, 3.0)


# dims as stored by torch, embedding table or not, role, fan-in multiplier, fan-out multiplier
TABLE = {
    "linear input": ([DOUBLE, FINITE], False, "input", 1, 2),
    "linear hidden": ([DOUBLE, TRIPLE], False, "hidden", 3, 2),
    "linear output": ([FINITE, TRIPLE], False, "output", 3, 1),
    "linear finite": ([FINITE, FINITE], False, "scalar", 1, 1),
    "conv input": ([TRIPLE, FINITE, FINITE, FINITE], False, "input", 1, 3),
    "conv hidden": ([DOUBLE, TRIPLE, FINITE, FINITE], False, "hidden", 3, 2),
    "conv output": ([FINITE, TRIPLE, FINITE, FINITE], False, "output", 3, 1),
    "embedding": ([FINITE, TRIPLE], True, "input", 1, 3),
    "finite embedding": ([FINITE, FINITE], True, "scalar", 1, 1),
    "bias or gain": ([TRIPLE], False, "input", 1, 3),
    "readout bias": ([FINITE], False, "scalar", 1, 1),
    "scalar": ([], False, "scalar", 1, 1),
    "class token": ([InfDim(None, 1), FINITE, TRIPLE], False, "input", 1, 3),
    "stack of matrices": ([FINITE, DOUBLE, InfDim(4, 8)], False, "hidden", 2, 2),
    "heads first": ([DOUBLE, FINITE, InfDim(4, 8)], False, "hidden", 2, 2),
}


@pytest.mark.parametrize("kind", TABLE)
def test_role_and_fans(kind):
    dims, transposed, role, fan_in_mult, fan_out_mult = TABLE[kind]
    infshape = InfShape(dims, transposed)
    fan_in, fan_out = infshape.fanin_fanout()
    assert infshape.role() == role
    assert (fan_in.width_mult(), fan_out.width_mult()) == (fan_in_mult, fan_out_mult)


def test_width_mult_is_that_of_the_last_dimension_that_scales():
    assert InfShape([DOUBLE, TRIPLE]).width_mult() == 3
    assert InfShape([TRIPLE, DOUBLE]).width_mult() == 2
    assert InfShape([TRIPLE, FINITE]).width_mult() == 3
    assert InfShape([FINITE]).width_mult() == 1
    assert InfShape([]).width_mult() == 1


def test_more_than_two_dimensions_that_scale_are_refused():
    with pytest.raises(ValueError, match=r"3 dimensions of InfShape\(8->16, 8->24, 8->16\)"):
        InfShape([DOUBLE, TRIPLE, DOUBLE])


@pytest.mark.parametrize("dims", [[FINITE, DOUBLE, TRIPLE], [DOUBLE, FINITE, TRIPLE]])
def test_a_stack_of_matrices_that_are_not_square_is_refused(dims):
    with pytest.raises(ValueError, match="which one is the fan-in"):
        InfShape(dims)


def test_an_infshape_is_a_sequence_with_a_value():
    infshape = InfShape([DOUBLE, FINITE])
    assert (len(infshape), list(infshape), infshape[1]) == (2, [DOUBLE, FINITE], FINITE)
    assert infshape == InfShape((InfDim(8, 16), InfDim(None, 5)))
    assert hash(infshape) == hash(InfShape((InfDim(8, 16), InfDim(None, 5))))
    assert infshape != InfShape([DOUBLE, DOUBLE])
    assert infshape != (DOUBLE, FINITE)
    assert infshape.ninf() == 1
    assert repr(infshape) == "InfShape(8->16, 5)"


@pytest.mark.parametrize("transposed", [False, True])
def test_a_stack_has_the_fans_of_its_matrices(transposed):
    width, finite, experts = InfDim(32, 256), InfDim(None, 24), InfDim(None, 4)
    for dims, fans in (((width, finite), (finite, width)), ((finite, width), (width, finite))):
        stack = InfShape((experts, *dims), transposed, stacked=True)
        assert stack.fanin_fanout() == (fans[::-1] if transposed else fans)
        assert stack.role() == ("output" if stack.fanin_fanout()[0] is width else "input")
    two = InfShape((experts, width, InfDim(16, 512)), transposed, stacked=True)
    assert [d.dim for d in two.fanin_fanout()] == ([256, 512] if transposed else [512, 256])
