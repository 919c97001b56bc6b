"""Tables 3, 8 and 9 are one parametrization: the same function after any number of steps.

In float64 over 50 steps, with width ratios that differ between layers. Source: Tensor Programs V,
Lemma J.1; Appendix B.3 for epsilon and the families of optimizers.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import mupkit
from mupkit import TABLE_3, TABLE_8, TABLE_9, Rules
from mupkit.rules import FAMILIES, shift
from tests.mupkit.models import FAMILIES as MODELS
from tests.mupkit.models import PLAIN, Lion, Tied, batch

STEPS = 50
TOLERANCE = 1e-10
EPS = 1e-3  # as large as gradients are: what is not scaled shows

OPTIMIZERS = {
    "sgd": lambda m: mupkit.MuSGD(m, lr=0.05, momentum=0.9, weight_decay=0.01),
    "sgd nesterov": lambda m: mupkit.MuSGD(m, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda m: mupkit.MuAdam(m, lr=0.01, eps=EPS),
    "adamw": lambda m: mupkit.MuAdamW(m, lr=0.01, eps=EPS, weight_decay=0.1),
    "rmsprop": lambda m: mupkit.MuAdam(m, impl=torch.optim.RMSprop, lr=0.005, eps=EPS),
    "adagrad": lambda m: mupkit.MuAdam(m, impl=torch.optim.Adagrad, lr=0.02, eps=EPS),
    "nadam": lambda m: mupkit.MuAdam(m, impl=torch.optim.NAdam, lr=0.01, eps=EPS),
    "radam": lambda m: mupkit.MuAdam(m, impl=torch.optim.RAdam, lr=0.01, eps=EPS),
    "lion": lambda m: mupkit.MuAdam(m, impl=Lion, lr=0.003, weight_decay=0.1),
    "adafactor": lambda m: mupkit.MuFrobenius(m, lr=0.02, weight_decay=0.01),
}
TARGETS = {"mlp": (48, 72), "cnn": (24, 80), "transformer": (48, 160)}


def tied(rules: Rules, seed: int = 0):
    def build(width):
        def readout(weight):
            layer = nn.Linear(width, len(weight), bias=False)
            layer.weight = weight
            return layer

        return Tied(width, readout)

    torch.manual_seed(seed)
    return mupkit.parametrize(build(48).double(), build(16), rules=rules)


def model_of(name: str, rules: Rules, seed: int = 0):
    if name == "tied":
        return tied(rules, seed)
    build, base, delta, _ = MODELS[name]
    base_model, delta_model = build(PLAIN, *base), build(PLAIN, *delta)
    torch.manual_seed(seed)
    model = build(PLAIN, *TARGETS[name]).double()
    return mupkit.parametrize(model, base_model, delta_model, rules=rules)


def inputs(name: str):
    if name == "tied":
        tokens = batch("transformer")[0]
        return tokens, tokens.flip(1).reshape(-1)
    x, labels = batch(name)
    return (x.double() if x.is_floating_point() else x), labels


def outputs(name: str, rules: Rules, make_optimizer, steps: int = STEPS):
    """The model's outputs before each step and after the last."""
    model = model_of(name, rules)
    if name == "transformer":
        # The gradient of a key's bias is rounding noise, which Adafactor scales up to full size.
        noisy = next(p for n, p in model.named_parameters() if "qkv" in n and "bias" in n)
        noisy.requires_grad_(False)
    optimizer = make_optimizer(model)
    x, labels = inputs(name)
    seen = []
    for _ in range(steps):
        logits = model(x)
        seen.append(logits.detach())
        optimizer.zero_grad()
        F.cross_entropy(logits.reshape(len(labels), -1), labels).backward()
        optimizer.step()
    return torch.stack([*seen, model(x).detach()])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", [*TARGETS, "tied"])
def test_tables_3_8_and_9_train_the_same_function(name, optimizer):
    expected, *others = (
        outputs(name, rules, OPTIMIZERS[optimizer]) for rules in (TABLE_3, TABLE_8, TABLE_9)
    )
    assert (expected[-1] - expected[0]).abs().max() > 0.1, "it does not learn"
    for other in others:
        assert (other - expected).abs().max() < TOLERANCE


def changed(rules: Rules, role: str, **rule) -> Rules:
    by_role = {**rules.by_role, role: dataclasses.replace(rules[role], **rule)}
    return dataclasses.replace(rules, by_role=by_role)


BUGS = {
    "init": changed(TABLE_9, "input", init_std=(0, 0)),
    "multiplier": changed(TABLE_9, "output", multiplier=(-1, 0)),
    "rate": changed(TABLE_9, "input", lr={**TABLE_9["input"].lr, "adam": (0, 0)}),
    "epsilon": changed(TABLE_9, "output", eps=(0, 0)),
}


@pytest.mark.parametrize("bug", BUGS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_wrong_entry_shows(name, bug):
    expected, other = (outputs(name, t, OPTIMIZERS["adam"], 5) for t in (TABLE_3, BUGS[bug]))
    assert (other - expected).abs().max() > 1e-6


def test_without_scaled_epsilon_the_tables_part():
    def unscaled(model):
        return mupkit.MuAdam(model, lr=0.01, eps=EPS, scale_eps=False)

    expected, other = (outputs("mlp", t, unscaled, 5) for t in (TABLE_3, TABLE_9))
    assert (other - expected).abs().max() > 1e-6


EXPONENT = st.floats(-2, 2, allow_nan=False)
THETA = st.tuples(EXPONENT, EXPONENT)


@pytest.mark.parametrize("rules", [TABLE_8, TABLE_9], ids=["8", "9"])
def test_lemma_j_1_derives_the_other_tables_from_table_3(rules):
    for role, rule in rules.by_role.items():
        theta = rule.multiplier  # Table 3 has none
        assert shift(TABLE_3[role], theta) == rule


@settings(derandomize=True, database=None, deadline=None)
@given(THETA, THETA)
def test_shifts_add_up_and_can_be_undone(first, second):
    rule = TABLE_8["hidden"]
    twice = shift(shift(rule, first), second)
    once = shift(rule, (first[0] + second[0], first[1] + second[1]))
    for a, b in zip(flat(twice), flat(once), strict=True):
        assert a == pytest.approx(b, abs=1e-12)


def flat(rule):
    pairs = [rule.init_std, rule.multiplier, rule.eps, *(rule.lr[f] for f in FAMILIES)]
    return [float(e) for pair in pairs for e in pair]


@settings(derandomize=True, database=None, deadline=None, max_examples=25)
@given(
    st.sampled_from(["input", "hidden", "output"]),
    THETA,
    st.sampled_from(["sgd", "adam", "adamw", "lion", "adafactor"]),
)
def test_lemma_j_1_any_theta_gives_the_same_function(role, theta, optimizer):
    """Rules with one role's multiplier changed, and the rest with it, are the same training."""
    shifted = {**TABLE_3.by_role, role: shift(TABLE_3[role], theta)}
    rules = dataclasses.replace(TABLE_3, by_role=shifted)
    expected, other = (outputs("mlp", t, OPTIMIZERS[optimizer], 8) for t in (TABLE_3, rules))
    assert (other - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_interpolation_ends_at_its_tables_and_is_linear(t):
    rules = mupkit.interpolate(mupkit.SP, TABLE_3, t)
    std = -0.5 - 0.5 * t
    assert rules["output"].init_std == (std, 0)
    assert rules["hidden"].lr["adam"] == (-t, 0)
    if t in (0, 1):
        assert rules is (TABLE_3 if t else mupkit.SP)
