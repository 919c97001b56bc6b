"""Equality with the `mup` package, version 1.0.0, the reference implementation.

Not compared: MuSharedReadout (a deliberate deviation, see test_layer), and errors.
"""

from __future__ import annotations

import mup
import mup.init
import pytest
import torch
from torch import nn

import mupkit
import mupkit.init
from tests.mupkit.models import CASES, by_name, parametrized, train

OPTIMIZERS = {
    "sgd": ("MuSGD", {"lr": 0.05, "momentum": 0.9}),
    "sgd_decay": ("MuSGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": ("MuAdam", {"lr": 0.01}),
    "adamw": ("MuAdamW", {"lr": 0.01, "weight_decay": 0.1}),
}


READOUTS = [{}, {"readout_zero_init": True, "output_mult": 3.0}]


@pytest.mark.parametrize("readout", READOUTS, ids=["default", "zero"])
@pytest.mark.parametrize(("name", "target"), CASES)
def test_initial_parameters_are_equal(name, target, readout):
    ours = parametrized(mupkit, name, target, **readout)
    oracle = parametrized(mup, name, target, **readout)
    expected = dict(oracle.named_parameters())
    assert list(dict(ours.named_parameters())) == list(expected)
    for parameter, p in ours.named_parameters():
        assert torch.equal(p, expected[parameter]), parameter


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "target"), CASES)
def test_learning_rates_and_weight_decays_are_equal_by_name(name, target, optimizer):
    factory, options = OPTIMIZERS[optimizer]
    ours, oracle = parametrized(mupkit, name, target), parametrized(mup, name, target)
    our_optimizer = getattr(mupkit, factory)(ours.parameters(), **options)
    oracle_optimizer = getattr(mup, factory)(oracle.parameters(), **options)
    for option in ("lr", "weight_decay"):
        expected = by_name(oracle, oracle_optimizer, option)
        assert by_name(ours, our_optimizer, option) == pytest.approx(expected, rel=1e-14, abs=0)


def loss_curve(lib, name, target, optimizer, **readout):
    factory, options = OPTIMIZERS[optimizer]
    if lib is mupkit:
        options = {**options, "scale_eps": False}
    model = parametrized(lib, name, target, **readout)
    return train(model, getattr(lib, factory)(model.parameters(), **options), name)


@pytest.mark.parametrize("readout", READOUTS, ids=["default", "zero"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("name", "target"), CASES)
def test_loss_curves_are_equal_bit_for_bit(name, target, optimizer, readout):
    ours = loss_curve(mupkit, name, target, optimizer, **readout)
    oracle = loss_curve(mup, name, target, optimizer, **readout)
    assert ours == oracle
    assert oracle[-1] < 0.9 * oracle[0], "the model must learn, or equal curves say nothing"


def pair(base_shape, shape):
    """The same tensor twice, one with mupkit's base shape and one with mup's."""

    class Holder(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(size))

    delta_shape = [d if d == b else b + 1 for b, d in zip(base_shape, shape, strict=True)]
    return tuple(
        lib.set_base_shapes(Holder(shape), Holder(base_shape), delta=Holder(delta_shape)).p
        for lib in (mupkit, mup)
    )


MATRICES = {
    "square": ((16, 16), (64, 64)),
    "wide": ((16, 8), (80, 24)),
    "tall": ((24, 16), (36, 112)),
    "conv": ((16, 8, 3, 3), (48, 56, 3, 3)),
}
VECTORS = {
    "input": ((16, 8), (56, 8)),
    "output": ((8, 16), (8, 112)),
    "embedding": ((11, 16), (11, 48)),
    "conv_input": ((8, 3, 5, 5), (24, 3, 5, 5)),
}
FAN_BASED = [
    *((f"xavier_{kind}_", {"gain": 1.7}) for kind in ("normal", "uniform")),
    *(
        (f"kaiming_{kind}_", {"a": 1.3, "mode": mode})
        for kind in ("normal", "uniform")
        for mode in ("fan_in", "fan_out")
    ),
    ("kaiming_normal_", {"nonlinearity": "relu"}),
    ("kaiming_uniform_", {"nonlinearity": "tanh"}),
]
CENTRED = [
    ("normal_", {"std": 0.3}),
    ("uniform_", {"a": -0.3, "b": 0.3}),
    ("trunc_normal_", {"std": 0.3, "a": -0.5, "b": 0.5}),
]
WITH_MEAN = [
    ("normal_", {"mean": 1.0, "std": 0.3}),
    ("uniform_", {}),
    ("trunc_normal_", {"mean": 1.0, "std": 0.3, "a": 0.5, "b": 3.0}),
    ("ones_", {}),
]


@pytest.mark.parametrize(
    ("kind", "initializer", "options"),
    [
        *((kind, *how) for kind in MATRICES for how in FAN_BASED + CENTRED),
        *((kind, *how) for kind in VECTORS for how in FAN_BASED + CENTRED + WITH_MEAN),
    ],
)
def test_initializers_draw_the_same_numbers(kind, initializer, options):
    ours, oracle = pair(*(MATRICES | VECTORS)[kind])
    torch.manual_seed(3)
    getattr(mupkit.init, initializer)(ours, **options)
    torch.manual_seed(3)
    getattr(mup.init, initializer)(oracle, **options)
    assert oracle.count_nonzero() > 0
    assert torch.equal(ours, oracle)
