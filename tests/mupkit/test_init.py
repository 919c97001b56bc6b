"""The initializers: their std by role and width, and what they refuse."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import mupkit
from mupkit import init, set_base_shapes


class Zoo(nn.Module):
    """One parameter of every kind; `width` and `width_2` scale."""

    def __init__(self, width, width_2):
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(300, width))
        self.input = nn.Parameter(torch.zeros(width, 300))
        self.conv_input = nn.Parameter(torch.zeros(width, 12, 5, 5))
        self.hidden = nn.Parameter(torch.zeros(width_2, width))
        self.conv_hidden = nn.Parameter(torch.zeros(width_2, width, 3, 3))
        self.stack = nn.Parameter(torch.zeros(3, width, width))
        self.output = nn.Parameter(torch.zeros(300, width))
        self.vector = nn.Parameter(torch.zeros(width))
        self.scalar = nn.Parameter(torch.zeros(()))
        self.finite = nn.Parameter(torch.zeros(70, 80))


BASE = (64, 32)
TARGETS = [BASE, (256, 64), (128, 288)]
ROLES = {
    "embedding": "vector",
    "input": "vector",
    "conv_input": "vector",
    "hidden": "matrix",
    "conv_hidden": "matrix",
    "stack": "matrix",
    "output": "vector",
    "vector": "vector",
    "scalar": "scalar",
    "finite": "scalar",
}
MATRICES = [kind for kind, role in ROLES.items() if role == "matrix"]
WITH_FANS = [kind for kind in ROLES if kind not in ("vector", "scalar")]
# Fan-in and fan-out at base width as torch counts them.
BASE_FANS = {
    "embedding": (64, 300),
    "input": (300, 64),
    "conv_input": (12 * 25, 64 * 25),
    "hidden": (64, 32),
    "conv_hidden": (64 * 9, 32 * 9),
    "stack": (64 * 64, 3 * 64),
    "output": (64, 300),
    "finite": (80, 70),
}


def parameter(kind, target):
    zoo = set_base_shapes(Zoo(*target), Zoo(*BASE), delta=Zoo(65, 33))
    torch.manual_seed(0)
    return getattr(zoo, kind)


def table_8_factor(kind, target):
    """std at `target` over std at base: 1/sqrt of the fan-in's multiplier for a matrix, or 1."""
    return (target[0] / BASE[0]) ** -0.5 if ROLES[kind] == "matrix" else 1.0


CONSTANT_STD = {
    "normal_": ({"std": 0.3}, 0.3),
    "uniform_": ({"a": -0.3, "b": 0.3}, 0.3 / 3**0.5),
    "trunc_normal_": ({"std": 0.3, "a": -0.3, "b": 0.3}, 0.3 * 0.5395),  # cut at one std
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ROLES)
@pytest.mark.parametrize("initializer", CONSTANT_STD)
def test_a_std_given_at_base_width_is_scaled_by_table_8(initializer, kind, target):
    options, std = CONSTANT_STD[initializer]
    p = parameter(kind, target)
    expected = torch.empty_like(p)
    getattr(nn.init, initializer)(expected, **options)
    torch.manual_seed(0)
    assert getattr(init, initializer)(p, **options) is p
    torch.testing.assert_close(p, expected * table_8_factor(kind, target), rtol=1e-4, atol=1e-6)
    if p.numel() > 1000:
        assert p.std().item() == pytest.approx(std * table_8_factor(kind, target), rel=0.03)


# Options, and the std at base width for given fans.
FAN_BASED = {
    "fan_in_normal_": ({"gain": 1.7}, lambda fan_in, _: 1.7 * fan_in**-0.5),
    "kaiming_normal_": ({"a": 1.0}, lambda fan_in, _: fan_in**-0.5),
    "kaiming_uniform_": (
        {"mode": "fan_out", "nonlinearity": "relu"},
        lambda _, fan_out: (2 / fan_out) ** 0.5,
    ),
    "xavier_normal_": ({"gain": 1.7}, lambda *fans: 1.7 * (2 / sum(fans)) ** 0.5),
    "xavier_uniform_": ({}, lambda *fans: (2 / sum(fans)) ** 0.5),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", WITH_FANS)
@pytest.mark.parametrize("initializer", FAN_BASED)
def test_a_std_from_fans_is_that_of_the_base_scaled_by_table_8(initializer, kind, target):
    options, base_std = FAN_BASED[initializer]
    p = parameter(kind, target)
    assert getattr(init, initializer)(p, **options) is p
    expected = base_std(*BASE_FANS[kind]) * table_8_factor(kind, target)
    assert p.std().item() == pytest.approx(expected, rel=0.03)
    assert abs(p.mean().item()) < 5 * expected / p.numel() ** 0.5
    bounded = p.abs().max().item() <= math.sqrt(3) * expected * (1 + 1e-6)
    assert bounded is ("uniform" in initializer)


def test_fan_in_normal_is_the_papers_hidden_initialization_at_every_width():
    for target in TARGETS:
        p = init.fan_in_normal_(parameter("hidden", target))
        assert p.std().item() == pytest.approx(target[0] ** -0.5, rel=0.03)


MEANS = {
    "normal_": {"mean": 2.0, "std": 0.1},
    "uniform_": {"a": 1.5, "b": 2.5},
    "trunc_normal_": {"mean": 2.0, "std": 0.1, "a": 1.0, "b": 3.0},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ROLES)
@pytest.mark.parametrize("initializer", MEANS)
def test_only_vectors_and_scalars_may_have_a_mean(initializer, kind, target):
    p = parameter(kind, target)
    if kind in MATRICES:
        with pytest.raises(ValueError, match="must have mean 0"):
            getattr(init, initializer)(p, **MEANS[initializer])
        assert p.count_nonzero() == 0
    else:
        getattr(init, initializer)(p, **MEANS[initializer])
        assert p.mean().item() == pytest.approx(2, abs=0.6 if p.numel() == 1 else 0.2)


@pytest.mark.parametrize("options", [{"a": -2.0, "b": 1.0}, {"mean": 0.1}])
def test_a_matrix_must_be_cut_symmetrically(options):
    with pytest.raises(ValueError, match="must have mean 0"):
        init.trunc_normal_(parameter("hidden", TARGETS[1]), **options)


@pytest.mark.parametrize("kind", ROLES)
def test_ones_and_zeros(kind):
    p = parameter(kind, TARGETS[1])
    if kind in MATRICES:
        with pytest.raises(ValueError, match="must have mean 0"):
            init.ones_(p)
        nn.init.ones_(p)
    else:
        assert init.ones_(p) is p
        assert bool((p == 1).all())
    assert init.zeros_(p) is p
    assert p.count_nonzero() == 0


@pytest.mark.parametrize("kind", ["vector", "scalar"])
@pytest.mark.parametrize("initializer", FAN_BASED)
def test_a_vector_has_no_fans(initializer, kind):
    with pytest.raises(ValueError, match="dimensions has no fan-in; use normal_"):
        getattr(init, initializer)(parameter(kind, TARGETS[1]))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"mode is 'fan_avg'"):
        init.kaiming_normal_(parameter("hidden", TARGETS[1]), mode="fan_avg")


@pytest.mark.parametrize("initializer", init.__all__)
def test_a_parameter_without_base_shape_is_refused(initializer):
    with pytest.raises(ValueError, match=r"parameter \(3, 4\) has no base shape"):
        arguments = [nn.init.ones_] if initializer == "constant_std_init_" else []
        getattr(init, initializer)(nn.Parameter(torch.zeros(3, 4)), *arguments)


class Constants(nn.Module):
    """Biases as people set them: all equal, a slice of them, larger than any draw."""

    def __init__(self, width):
        super().__init__()
        self.linear, self.conv = nn.Linear(width, width), nn.Conv1d(width, width, 3)
        self.lstm, self.readout = nn.LSTM(width, width), nn.Linear(width, 3)
        nn.init.constant_(self.linear.bias, 0.01)
        nn.init.constant_(self.conv.bias, 1.0)
        nn.init.constant_(self.readout.bias, -4.6)
        with torch.no_grad():
            self.lstm.bias_ih_l0[width : 2 * width] = 1.0  # the forget gate's


def test_biases_that_are_constants_stay():
    """A second call, even by another base, and one at base width leave them too."""
    torch.manual_seed(0)
    plain = Constants(512)
    model = copy.deepcopy(plain)
    for base in (32, 64, 512):
        mupkit.parametrize(model, Constants(base), Constants(2 * base))
        for name in ("linear", "conv", "readout"):
            expected = getattr(plain, name).bias
            assert torch.equal(getattr(model, name).bias, expected), (name, base)
        gates, before = (m.lstm.bias_ih_l0.view(4, 512) for m in (model, plain))
        assert torch.equal(gates[1], before[1])
        for drawn in (0, 2, 3):
            torch.testing.assert_close(gates[drawn], before[drawn] * (512 / base) ** 0.5)


def test_constants_have_the_same_effect_in_every_table():
    """Where biases have multipliers, their stored values have the inverse."""
    outputs = []
    for rules in (mupkit.TABLE_3, mupkit.TABLE_9):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 256), nn.ReLU(), nn.Linear(256, 3)).double()
        nn.init.constant_(model[0].bias, 0.7)
        base = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
        mupkit.parametrize(model, base, rules=rules)
        outputs.append(model(torch.ones(1, 8, dtype=torch.float64)))
    torch.testing.assert_close(*outputs)


def test_set_base_shapes_rescales_constants_as_mup_does():
    def build(width):
        model = mupkit.MuReadout(width, 3), nn.Linear(8, width), nn.Linear(width, width)
        nn.init.constant_(model[2].bias, 1.0)
        return nn.Sequential(*model[1:], model[0])

    model = mupkit.set_base_shapes(build(512), build(32), delta=build(64))
    assert set(model[1].bias.tolist()) == {4.0}
