"""At base width µP is SP: the same bits as plain PyTorch, parameters and loss curves."""

from __future__ import annotations

import pytest
import torch

import mupkit
import mupkit.init
from tests.mupkit.models import FAMILIES, PLAIN, by_name, parametrized, train

OPTIMIZERS = {
    "MuSGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "MuAdam": {"lr": 0.01},
    "MuAdamW": {"lr": 0.01, "weight_decay": 0.1},
}


@pytest.mark.parametrize("factory", OPTIMIZERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_mup_at_base_width_is_plain_torch(name, factory):
    runs = []
    for lib in (mupkit, PLAIN):
        model = parametrized(lib, name, FAMILIES[name].base)
        start = [p.detach().clone() for p in model.parameters()]
        optimizer = getattr(lib, factory)(model.parameters(), **OPTIMIZERS[factory])
        runs.append((start, train(model, optimizer, name), list(model.parameters())))
    (start, losses, end), (plain_start, plain_losses, plain_end) = runs
    assert all(torch.equal(a, b) for a, b in zip(start, plain_start, strict=True))
    assert losses == plain_losses
    assert all(torch.equal(a, b) for a, b in zip(end, plain_end, strict=True))
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("rules", [mupkit.TABLE_3, mupkit.TABLE_8, mupkit.TABLE_9], ids="389")
@pytest.mark.parametrize("factory", OPTIMIZERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_model_at_base_width_is_plain_torch(name, factory, rules):
    build, base, delta, _ = FAMILIES[name]
    runs = []
    for lib in (mupkit, PLAIN):
        torch.manual_seed(0)
        model = build(PLAIN, *base)
        if lib is mupkit:
            mupkit.parametrize(model, build(PLAIN, *base), build(PLAIN, *delta), rules=rules)
        optimizer = getattr(lib, factory)(model.parameters(), **OPTIMIZERS[factory])
        losses = train(model, optimizer, name)
        runs.append((losses, [p.tolist() for p in model.parameters()], list(model.state_dict())))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("name", FAMILIES)
def test_wider_than_base_is_not_plain_torch(name):
    """The counterpart, without which the test above could pass by doing nothing."""
    target = FAMILIES[name].targets[1]
    curves = []
    for lib in (mupkit, PLAIN):
        model = parametrized(lib, name, target)
        curves.append(train(model, lib.MuAdam(model.parameters(), lr=0.01), name))
    assert max(abs(a - b) for a, b in zip(*curves, strict=True)) > 1e-3


@pytest.mark.parametrize("factory", OPTIMIZERS)
def test_without_base_shapes_given_a_model_is_its_own_base(factory):
    """`base=None` is how a model is left in SP at any width."""
    build, _, _, targets = FAMILIES["transformer"]
    runs = []
    for lib in (mupkit, PLAIN):
        torch.manual_seed(0)
        model = lib.set_base_shapes(build(lib, *targets[2]), None)
        optimizer = getattr(lib, factory)(model.parameters(), **OPTIMIZERS[factory])
        rates = by_name(model, optimizer, "lr")
        runs.append((rates, train(model, optimizer, "transformer")))
    assert runs[0] == runs[1]


INITIALIZERS = {
    "normal_": {"std": 0.3},
    "uniform_": {"a": -0.3, "b": 0.3},
    "trunc_normal_": {"std": 0.3},
    "kaiming_normal_": {"nonlinearity": "relu"},
    "kaiming_uniform_": {"a": 5**0.5, "mode": "fan_out"},
    "xavier_normal_": {"gain": 1.7},
    "xavier_uniform_": {},
    "zeros_": {},
}


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_initializers_are_torchs_at_base_width(name, initializer):
    model = parametrized(mupkit, name, FAMILIES[name].base)
    for parameter, p in model.named_parameters():
        if p.dim() < 2:
            continue
        expected = torch.full_like(p, 7)
        torch.manual_seed(3)
        getattr(torch.nn.init, initializer)(expected, **INITIALIZERS[initializer])
        torch.manual_seed(3)
        getattr(mupkit.init, initializer)(p, **INITIALIZERS[initializer])
        assert torch.equal(p, expected), parameter
