"""torch's schedulers: each keeps the ratios of the rates, or the guard stops the next step."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

import mupkit
from mupkit.schedule import guard, per_group
from tests.mupkit.models import by_name, parametrized

RATE, LOW = 0.1, 0.01


def halve(*_):
    return 0.5


def chained(optimizer):
    parts = [schedulers.ExponentialLR(optimizer, 0.9), schedulers.StepLR(optimizer, 2)]
    return schedulers.ChainedScheduler(parts, optimizer)


def sequential(optimizer):
    parts = [schedulers.LinearLR(optimizer), schedulers.CosineAnnealingLR(optimizer, 3)]
    return schedulers.SequentialLR(optimizer, parts, [2])


def plateau(optimizer, **options):
    return schedulers.ReduceLROnPlateau(optimizer, factor=0.3, patience=0, **options)


def cyclic(optimizer, low, high):
    return schedulers.CyclicLR(optimizer, low, high, step_size_up=3, cycle_momentum=False)


KEEP = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, halve),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: schedulers.LinearLR(o, total_iters=3),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.7),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 9, power=2),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 9),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 3),
    "ChainedScheduler": chained,
    "SequentialLR": sequential,
    "ReduceLROnPlateau": plateau,
    # These set rates as they are given, and take one a group.
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, per_group(o, RATE), total_steps=9),
    "CyclicLR": lambda o: cyclic(o, per_group(o, LOW), per_group(o, RATE)),
    "ReduceLROnPlateau, floor": lambda o: plateau(o, min_lr=per_group(o, LOW)),
    "SWALR": lambda o: SWALR(o, per_group(o, LOW), anneal_epochs=3),
}
LOSE = {
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, RATE, total_steps=9),
    "CyclicLR": lambda o: cyclic(o, LOW, RATE),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 5, eta_min=LOW),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(
        o, 5, eta_min=LOW
    ),
    "ReduceLROnPlateau": lambda o: plateau(o, min_lr=LOW),
    "SWALR": lambda o: SWALR(o, LOW, anneal_epochs=3),
}
ABSTRACT = {schedulers.LRScheduler}


def model_and_optimizer(make=mupkit.MuAdam, **options):
    model = parametrized(mupkit, "mlp", (64, 96))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    return model, make(model, lr=RATE, **options)


def step(scheduler):
    scheduler.step(*([1.0] if isinstance(scheduler, schedulers.ReduceLROnPlateau) else []))


def test_every_scheduler_of_torch_is_here():
    """A new one has to be tried before it is taken for harmless."""
    kinds = (schedulers.LRScheduler, schedulers.ReduceLROnPlateau)
    found = {c for c in vars(schedulers).values() if inspect.isclass(c) and issubclass(c, kinds)}
    found -= ABSTRACT | {getattr(schedulers, "_LRScheduler", None)}
    assert {c.__name__ for c in found} | {"SWALR"} == {name.partition(",")[0] for name in KEEP}
    settings = [
        c.__name__
        for c in [*found, SWALR]
        if {"eta_min", "min_lr", "max_lr", "swa_lr"} & inspect.signature(c).parameters.keys()
    ]
    assert set(settings) == LOSE.keys(), "what takes an absolute rate can lose the ratios"


@pytest.mark.parametrize("name", KEEP)
def test_a_scheduler_that_keeps_the_ratios(name):
    model, optimizer = model_and_optimizer()
    assert len(optimizer.param_groups) > 1
    scheduler, moved = KEEP[name](optimizer), set()
    for _ in range(6):
        optimizer.step()
        rates, mults = (by_name(model, optimizer, option) for option in ("lr", "lr_mult"))
        masters = [rates[name] / mults[name] for name in rates]
        assert masters == pytest.approx(masters[:1] * len(masters), rel=1e-9)
        moved.add(masters[0])
        step(scheduler)
    assert len(moved) > 1, "it did nothing"


@pytest.mark.parametrize("name", LOSE)
def test_a_scheduler_that_loses_the_ratios_is_stopped_with_the_mend(name):
    _, optimizer = model_and_optimizer()
    scheduler = LOSE[name](optimizer)
    fix = "eta_min at 0" if "Cosine" in name else r"mupkit\.per_group"
    with pytest.raises(ValueError, match=rf"lost the ratio.*{fix}"):
        for _ in range(8):
            optimizer.step()
            step(scheduler)


def test_the_guard_names_the_groups_and_their_rates():
    _, optimizer = model_and_optimizer()
    optimizer.param_groups[1]["lr"] = 7 * optimizer.param_groups[1]["lr_mult"]
    with pytest.raises(ValueError, match=r"groups 0 and 1 .* they are 0\.1 and 7\."):
        optimizer.step()


@pytest.mark.parametrize("factor", [0.0, 1e-12, 1.0 + 1e-9])
def test_rates_may_be_anything_that_is_in_ratio(factor):
    _, optimizer = model_and_optimizer()
    for group in optimizer.param_groups:
        group["lr"] *= factor
    optimizer.step()
    optimizer.param_groups[0]["lr"] += RATE
    with pytest.raises(ValueError, match="lost the ratio"):
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_tensor_rates_are_guarded_on_the_cpu(fused):
    model = parametrized(mupkit, "mlp", (64, 96))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = mupkit.MuAdam(model, lr=torch.tensor(RATE), fused=fused)
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    optimizer.step()
    assert max(by_name(model, optimizer, "lr").values()) == pytest.approx(RATE / 2)
    optimizer.param_groups[0]["lr"].fill_(3.0)
    with pytest.raises(ValueError, match="lost the ratio"):
        optimizer.step()


@pytest.mark.parametrize("make", [mupkit.MuAdam, mupkit.MuSGD])
def test_your_own_groups_with_different_rates_are_independent(make):
    model = parametrized(mupkit, "mlp", (64, 96))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    own = [{"params": model.input.parameters(), "lr": 0.3}, {"params": model.hidden.parameters()}]
    optimizer = make([*own, {"params": model.readout.parameters(), "lr": 0.02}], lr=RATE)
    masters = [g["lr"] / g["lr_mult"] for g in optimizer.param_groups]
    assert {round(m, 9) for m in masters} == {0.3, RATE, 0.02}
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] *= 3 if group["mup_group"] == 1 else 1
    optimizer.step()
    (hidden, *_) = [g for g in optimizer.param_groups if g["mup_group"] == 1]
    hidden["lr"] *= 2
    with pytest.raises(ValueError, match="lost the ratio"):
        optimizer.step()


def test_a_loaded_optimizer_keeps_its_factors_and_its_guard():
    model, optimizer = model_and_optimizer()
    scheduler = schedulers.ExponentialLR(optimizer, 0.5)
    optimizer.step()
    scheduler.step()
    state = copy.deepcopy(optimizer.state_dict())
    _, other = model_and_optimizer()
    other.load_state_dict(state)
    for key in ("lr", "lr_mult", "mup_group"):
        expected = [g[key] for g in optimizer.param_groups]
        assert [g[key] for g in other.param_groups] == expected
    other.step()
    assert math.isclose(per_group(other, 1.0)[0], other.param_groups[0]["lr_mult"])
    other.param_groups[0]["lr"] = 5.0
    with pytest.raises(ValueError, match="lost the ratio"):
        other.step()
    assert by_name(model, optimizer, "lr")["hidden.weight"] == RATE / 2 / 4


def test_an_optimizer_of_torch_passes():
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr": 1.0}, {"params": [model.bias]}])
    guard(optimizer)
    assert per_group(optimizer, 0.5) == [0.5, 0.5]


def grouped(make=mupkit.MuAdam):
    """Matrices and the rest as groups of one's own, so that no group has two rates."""
    model = parametrized(mupkit, "mlp", (64, 96))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    matrices = [model.hidden.weight]
    rest = [p for p in model.parameters() if p is not model.hidden.weight]
    return model, make([{"params": matrices}, {"params": rest}], lr=RATE)


@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR", "ReduceLROnPlateau", "SWALR"])
def test_the_same_rate_for_groups_of_ones_own_is_stopped_too(name):
    _, optimizer = grouped()
    assert len({group["lr"] for group in optimizer.param_groups}) == 2
    scheduler = LOSE[name](optimizer)
    with pytest.raises(ValueError, match=r"have the same learning rate, .* where they were asked"):
        for _ in range(9):
            optimizer.step()
            step(scheduler)


@pytest.mark.parametrize("name", KEEP)
def test_a_scheduler_that_keeps_the_ratios_keeps_those_of_ones_own_groups(name):
    _, optimizer = grouped()
    scheduler = KEEP[name](optimizer)
    for _ in range(6):
        optimizer.step()
        step(scheduler)


def test_groups_may_have_schedules_of_their_own():
    _, optimizer = grouped()
    factors = [(0.5, 0.9)[group["mup_group"]] for group in optimizer.param_groups]
    scheduler = schedulers.LambdaLR(optimizer, [lambda s, x=x: x**s for x in factors])
    for _ in range(6):
        optimizer.step()
        scheduler.step()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda optimizer: pickle.loads(pickle.dumps(optimizer)),
    "pickle of a copy": lambda optimizer: pickle.loads(pickle.dumps(copy.deepcopy(optimizer))),
}


@pytest.mark.parametrize("make", [mupkit.MuAdam, mupkit.MuSGD, mupkit.MuFrobenius])
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_keeps_the_guard(make, way):
    _, optimizer = model_and_optimizer(make)
    optimizer.step()
    copied = COPIES[way](optimizer)
    assert type(copied) is type(optimizer)
    assert [g["lr"] for g in copied.param_groups] == [g["lr"] for g in optimizer.param_groups]
    for group in copied.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    copied.step()
    for group in copied.param_groups:
        group["lr"] = RATE
    with pytest.raises(ValueError, match="have lost the ratio"):
        copied.step()


def test_the_state_of_a_plain_optimizer_does_not_take_the_guard_away():
    model, optimizer = model_and_optimizer()
    groups = [{"params": group["params"]} for group in optimizer.param_groups]
    plain = torch.optim.Adam(groups, lr=RATE)
    optimizer.load_state_dict(plain.state_dict())
    assert {group["lr"] for group in optimizer.param_groups} == {RATE}
    with pytest.raises(ValueError, match=r"lost the ratio.* a plain optimizer was loaded"):
        optimizer.step()
    own = mupkit.MuAdam(model, lr=RATE)
    optimizer.load_state_dict(own.state_dict())
    optimizer.step()


def test_a_hook_of_ones_own_runs_once_a_step():
    _, optimizer = model_and_optimizer()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # torch changes the class at the first
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert len(calls) == 1
