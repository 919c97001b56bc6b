"""How far activations move in a few large steps must not depend on width (paper, Fig. 5).

Each planted bug shows that the check can fail.
"""

from __future__ import annotations

import math
from statistics import linear_regression

import pytest
import torch
from torch.nn import functional as F

import mupkit
import mupkit.init
from tests.mupkit.models import MLP, PLAIN, batch

BASE = 32
WIDTHS = [64, 128, 256, 512, 1024]
SEEDS = range(3)
TOLERANCE = 0.2
LAYERS = ("input", "hidden", "readout")
LR = {"adam": 0.02, "sgd": 0.5}


def mup_mlp(width, lib=mupkit):
    return lib.set_base_shapes(MLP(lib, width, width), MLP(lib, BASE, BASE))


def activations(model, x):
    outputs = {}
    handles = [
        getattr(model, layer).register_forward_hook(
            lambda _, __, y, layer=layer: outputs.__setitem__(layer, y.detach())
        )
        for layer in LAYERS
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return outputs


def change(build, make_optimizer, width, seed, steps=3):
    """Mean |change| of each layer's output after `steps` steps."""
    torch.manual_seed(seed)
    model = build(width)
    x, labels = batch("mlp")
    before = activations(model, x)
    optimizer = make_optimizer(model)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    after = activations(model, x)
    return {layer: (after[layer] - before[layer]).abs().mean().item() for layer in LAYERS}


def slopes(build, make_optimizer):
    """The exponents of width in the changes, by layer."""
    logs = {layer: [] for layer in LAYERS}
    for width in WIDTHS:
        changes = [change(build, make_optimizer, width, seed) for seed in SEEDS]
        for layer in LAYERS:
            logs[layer].append(sum(math.log2(c[layer]) for c in changes) / len(changes))
    log_widths = [math.log2(width) for width in WIDTHS]
    return {layer: linear_regression(log_widths, logs[layer]).slope for layer in LAYERS}


def faulty(found):
    """The layers whose change depends on width."""
    return {layer for layer, slope in found.items() if abs(slope) >= TOLERANCE}


def mu_adam(model):
    return mupkit.MuAdam(model, lr=LR["adam"])


def mu_sgd(model):
    return mupkit.MuSGD(model, lr=LR["sgd"])


def plain_adam(model):
    return torch.optim.Adam(model.parameters(), lr=LR["adam"])


def plain_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR["sgd"])


def no_multiplier(width):
    model = mup_mlp(width)
    model.readout.set_width_mult(1.0)
    return model


def hidden_std_not_scaled(width):
    model = mup_mlp(width)
    torch.nn.init.normal_(model.hidden.weight, std=BASE**-0.5)
    return model


def sp_mlp(width):
    return mup_mlp(width, PLAIN)


@pytest.mark.parametrize("make_optimizer", [mu_adam, mu_sgd])
def test_mup_moves_every_layer_alike_at_every_width(make_optimizer):
    found = slopes(mup_mlp, make_optimizer)
    assert faulty(found) == set(), found


def test_initializers_of_mupkit_keep_it_so():
    def build(width):
        model = mup_mlp(width)
        mupkit.init.kaiming_normal_(model.input.weight, a=1)
        mupkit.init.kaiming_normal_(model.hidden.weight, a=1)
        mupkit.init.normal_(model.readout.weight, std=0.1)
        return model

    found = slopes(build, mu_adam)
    assert faulty(found) == set(), found


BUGS = {
    "standard parametrization": (sp_mlp, plain_adam, {"hidden", "readout"}),
    "plain Adam": (mup_mlp, plain_adam, {"hidden", "readout"}),
    "plain SGD": (mup_mlp, plain_sgd, {"input"}),
    "readout without multiplier": (no_multiplier, mu_adam, {"readout"}),
    "hidden std not scaled": (hidden_std_not_scaled, mu_adam, {"hidden", "readout"}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_caught(bug):
    build, make_optimizer, expected = BUGS[bug]
    found = slopes(build, make_optimizer)
    assert expected <= faulty(found), found
