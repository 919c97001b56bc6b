"""The optimizers: rates by kind of layer, and the forms in which parameters may come."""

from __future__ import annotations

import copy
import inspect
import re
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn

import mupkit
from mupkit import MuAdam, MuAdamW, MuReadout, MuSGD, set_base_shapes
from tests.mupkit.models import MLP, by_name, parametrized


class Zoo(nn.Module):
    """Every kind of layer; `width` and `width_2` scale each on its own."""

    def __init__(self, width, width_2):
        super().__init__()
        self.word = nn.Embedding(11, width)
        self.position = nn.Parameter(torch.zeros(1, 7, width))
        self.linear_input = nn.Linear(3, width)
        self.conv_input = nn.Conv2d(3, width, 3)
        self.conv = nn.Conv2d(width, width_2, 3)
        self.square = nn.Linear(width, width)
        self.up = nn.Linear(width, width_2)
        self.down = nn.Linear(width_2, width)
        self.norm = nn.LayerNorm(width_2)
        self.temperature = nn.Parameter(torch.ones(()))
        self.position_bias = nn.Parameter(torch.zeros(7, 7))
        self.readout = MuReadout(width_2, 5)


# Rate at a multiplier of 2 for width and 12 for width_2: SGD, Adam. Source: Table 8; for weights
# between different widths SGD's is fan_out / fan_in (Appendix J).
RATES = {
    "word.weight": (2, 1),
    "position": (2, 1),
    "linear_input.weight": (2, 1),
    "linear_input.bias": (2, 1),
    "conv_input.weight": (2, 1),
    "conv_input.bias": (2, 1),
    "conv.weight": (12 / 2, 1 / 2),
    "conv.bias": (12, 1),
    "square.weight": (1, 1 / 2),
    "square.bias": (2, 1),
    "up.weight": (12 / 2, 1 / 2),
    "up.bias": (12, 1),
    "down.weight": (2 / 12, 1 / 12),
    "down.bias": (2, 1),
    "norm.weight": (12, 1),
    "norm.bias": (12, 1),
    "temperature": (1, 1),
    "position_bias": (1, 1),
    "readout.weight": (12, 1),
    "readout.bias": (1, 1),
}
SGD_RATES = {name: sgd for name, (sgd, _) in RATES.items()}
ADAM_RATES = {name: adam for name, (_, adam) in RATES.items()}
OPTIMIZERS = [(MuSGD, SGD_RATES), (MuAdam, ADAM_RATES), (MuAdamW, ADAM_RATES)]


def zoo():
    return set_base_shapes(Zoo(32, 48), Zoo(16, 4), delta=Zoo(17, 5))


def mlp(**readout):
    """A hidden weight and a readout, each with a width multiplier of 4."""
    return parametrized(mupkit, "mlp", (64, 96), **readout)


MLP_RATES = {"input.weight": 1, "hidden.weight": 0.25, "readout.weight": 1}  # under Adam


def weights(rates):
    return {name: rate for name, rate in rates.items() if name.endswith("weight")}


def scaled(rates, factor):
    return pytest.approx({name: factor * rate for name, rate in rates.items()}, rel=1e-14)


@pytest.mark.parametrize(("factory", "rates"), OPTIMIZERS)
def test_rates_are_those_of_table_8(factory, rates):
    model = zoo()
    optimizer = factory(model, lr=0.3)
    assert by_name(model, optimizer, "lr") == scaled(rates, 0.3)
    assert by_name(model, optimizer, "lr_mult") == scaled(rates, 1)


@pytest.mark.parametrize(("factory", "rates"), OPTIMIZERS)
def test_rate_times_weight_decay_is_constant_in_width(factory, rates):
    model = zoo()
    with pytest.warns(UserWarning, match="MuAdamW") if factory is MuAdam else nullcontext():
        optimizer = factory(model, lr=0.3, weight_decay=0.1)
    inverse = {name: 1 / rate for name, rate in rates.items()}
    assert by_name(model, optimizer, "weight_decay") == scaled(inverse, 0.1)
    assert set(by_name(model, factory(model, lr=0.3), "weight_decay").values()) == {0}


@pytest.mark.parametrize(
    ("factory", "impl"), [(MuSGD, torch.optim.SGD), (MuAdam, torch.optim.Adam)]
)
def test_they_are_torchs_optimizers_with_their_options(factory, impl):
    assert isinstance(factory(mlp(), lr=0.1), impl)
    assert type(factory(mlp(), lr=0.1)).__name__ == impl.__name__
    assert isinstance(MuAdamW(mlp(), lr=0.1), torch.optim.AdamW)
    model = mlp()
    optimizer = MuAdam(model, impl=torch.optim.RMSprop, lr=0.1, alpha=0.5, momentum=0.2)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert {(g["alpha"], g["momentum"]) for g in optimizer.param_groups} == {(0.5, 0.2)}
    assert weights(by_name(model, optimizer, "lr")) == scaled(MLP_RATES, 0.1)
    optimizer = MuSGD(model, impl=torch.optim.ASGD, lr=0.1)
    assert by_name(model, optimizer, "lr")["input.weight"] == pytest.approx(0.4)


@pytest.mark.parametrize("named", [True, False], ids=["lr=", "bound"])
def test_impl_may_bind_keywords(named):
    bound = {"betas": (0.5, 0.6), "weight_decay": 0.2, **({} if named else {"lr": 0.1})}
    impl = partial(partial(torch.optim.AdamW, eps=1.0), **bound)
    model, options = mlp(), {"lr": 0.1} if named else {}
    optimizer = MuAdam(model, impl, **options)
    expected = MuAdamW(model, lr=0.1, betas=(0.5, 0.6), weight_decay=0.2, eps=1.0)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert str(optimizer) == str(expected)
    assert MuAdam(model, impl, lr=0.3, betas=(0.7, 0.8)).defaults["betas"] == (0.7, 0.8)
    assert max(by_name(model, MuAdam(model, impl, lr=0.3), "lr").values()) == 0.3


def test_an_impl_that_binds_what_it_cannot_is_refused():
    with pytest.raises(ValueError, match=r"impl binds \(0\.1,\) by position"):
        MuSGD(mlp(), partial(torch.optim.SGD, 0.1))
    with pytest.raises(ValueError, match=r"SGD is for mupkit\.MuSGD"):
        MuAdam(mlp(), partial(torch.optim.SGD, lr=0.1))
    with pytest.warns(UserWarning, match="decay of Adam goes through"):
        MuAdam(mlp(), partial(torch.optim.Adam, lr=0.1, weight_decay=0.1))


FORMS = {
    "model": lambda model: model,
    "parameters": lambda model: model.parameters(),
    "named_parameters": lambda model: model.named_parameters(),
    "list": lambda model: list(model.parameters()),
    "generator": lambda model: (p for p in model.parameters() if p.requires_grad),
    "groups": lambda model: [{"params": list(model.parameters())}],
    "named group": lambda model: [{"params": model.named_parameters()}],
    "group per tensor": lambda model: ({"params": p} for p in model.parameters()),
}


@pytest.mark.parametrize("form", FORMS)
def test_parameters_in_every_form(form):
    model = zoo()
    optimizer = MuAdam(FORMS[form](model), lr=0.3)
    assert by_name(model, optimizer, "lr") == scaled(ADAM_RATES, 0.3)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(RATES)


def test_groups_keep_their_own_options_and_are_left_unchanged():
    model = mlp()
    groups = [
        {"params": [model.hidden.weight], "lr": 0.4, "weight_decay": 0.2, "betas": (0.8, 0.9)},
        {"params": [model.input.weight, model.readout.weight, *other(model)], "name": "rest"},
    ]
    before = [{**group, "params": list(group["params"])} for group in groups]
    optimizer = MuAdamW(groups, lr=0.1, weight_decay=0.5)
    assert [g.keys() for g in groups] == [g.keys() for g in before]
    for group, old in zip(groups, before, strict=True):
        assert all(a is b for a, b in zip(group["params"], old["params"], strict=True))
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in old.items() if k != "params"
        }
    lr = {"input.weight": 0.1, "hidden.weight": 0.1, "readout.weight": 0.1}
    decay = {"input.weight": 0.5, "hidden.weight": 0.8, "readout.weight": 0.5}
    assert weights(by_name(model, optimizer, "lr")) == pytest.approx(lr)
    assert weights(by_name(model, optimizer, "weight_decay")) == pytest.approx(decay)
    (hidden,) = [g for g in optimizer.param_groups if "name" not in g]
    assert hidden["betas"] == (0.8, 0.9)


def other(model):
    return [p for name, p in model.named_parameters() if not name.endswith("weight")]


def test_a_tensor_as_rate_is_not_changed():
    model, lr = mlp(), torch.tensor(0.1)
    optimizer = MuAdam(model, lr=lr)
    assert lr.item() == pytest.approx(0.1)
    assert weights(by_name(model, optimizer, "lr")) == pytest.approx(
        {name: 0.1 * rate for name, rate in MLP_RATES.items()}, rel=1e-6
    )


@pytest.mark.parametrize("factory", [MuSGD, MuAdam, MuAdamW])
def test_a_missing_rate_is_refused(factory):
    model = mlp()
    with pytest.raises(ValueError, match="needs lr"):
        factory(model)
    with pytest.raises(ValueError, match="needs lr"):
        factory([{"params": [model.input.weight], "lr": 0.1}, {"params": [model.input.bias]}])
    optimizer = factory([{"params": [model.readout.bias], "lr": 0.1}])
    assert [g["lr"] for g in optimizer.param_groups] == [0.1]


@pytest.mark.parametrize("empty", [[], iter([]), nn.Module(), [{"params": []}]])
def test_no_parameters_are_refused(empty):
    with pytest.raises(ValueError, match=r"no parameters|empty parameter list"):
        MuAdam(empty, lr=0.1)


def test_parameters_without_base_shapes_are_named():
    model = MLP(mupkit, 16, 16)
    with pytest.raises(ValueError, match=r"without base shapes: input\.weight, input\.bias, hid"):
        MuAdam(model, lr=0.1)
    with pytest.raises(ValueError, match=r"parameter input\.weight has no base shape"):
        MuAdam(model.named_parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"parameter \(16, 8\) has no base shape"):
        MuAdam(model.parameters(), lr=0.1)


def test_a_deep_copy_is_given_as_a_model():
    model = copy.deepcopy(zoo())
    with pytest.raises(ValueError, match="or give the optimizer the model itself"):
        MuSGD(model.parameters(), lr=0.3)
    assert by_name(model, MuSGD(model, lr=0.3), "lr") == scaled(SGD_RATES, 0.3)


class Wrapper(nn.Module):
    """As DistributedDataParallel does: every name gets a prefix."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_a_wrapped_model_has_the_rates_of_the_model():
    model = copy.deepcopy(zoo())
    compiled = torch.compile(model, backend="eager")
    assert by_name(model, MuSGD(Wrapper(model), lr=0.3), "lr") == scaled(SGD_RATES, 0.3)
    assert by_name(model, MuSGD(compiled, lr=0.3), "lr") == scaled(SGD_RATES, 0.3)


def test_a_scheduler_by_factor_keeps_the_ratios():
    model = zoo()
    optimizer = MuAdam(model, lr=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for step in range(4):
        assert by_name(model, optimizer, "lr") == scaled(ADAM_RATES, 0.3 / (1 + step))
        optimizer.step()
        scheduler.step()


def test_frozen_parameters_stay_where_they_are():
    model = mlp()
    model.input.weight.requires_grad_(False)
    before = model.input.weight.clone()
    optimizer = MuAdam(model, lr=0.1)
    model(torch.randn(4, 8)).square().sum().backward()
    optimizer.step()
    assert torch.equal(model.input.weight, before)


@pytest.mark.parametrize(("factory", "rates"), OPTIMIZERS[:2])
def test_the_first_step_moves_each_parameter_at_its_rate(factory, rates):
    """The rates as the optimizer applies them, against plain steps at the scaled rate."""
    model = zoo()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    torch.manual_seed(0)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    factory(model, lr=0.3).step()
    for name, p in model.named_parameters():
        step = p.grad if factory is MuSGD else p.grad / (p.grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), start[name] - 0.3 * rates[name] * step)


COMMON = {"lr": None, "weight_decay": 0.0, "weight_decay_mode": "independent"}
WITH_EPS = {**COMMON, "scale_eps": True}
EXPORTED = {
    "MuAdam": WITH_EPS,
    "MuAdamW": WITH_EPS,
    "MuFrobenius": WITH_EPS,
    "MuMuon": COMMON,  # its epsilon is a floor of the whole gradient's norm
    "MuSGD": WITH_EPS,
}


def test_no_exported_optimizer_is_forgotten_here():
    found = {n for n in mupkit.__all__ if inspect.getmodule(getattr(mupkit, n)) is mupkit.optim}
    assert found == EXPORTED.keys()


@pytest.mark.parametrize("name", EXPORTED)
def test_help_shows_the_keywords_with_their_defaults_and_their_meaning(name):
    function = getattr(mupkit, name)
    parameters = inspect.signature(function).parameters
    assert {k: p.default for k, p in parameters.items() if k in EXPORTED[name]} == EXPORTED[name]
    assert [p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD] == ["options"]
    arguments = inspect.getdoc(function).split("\nArgs:\n")[1].split("\n\n")[0]
    documented = re.findall(r"^    (\**\w+): \S", arguments, re.MULTILINE)
    assert documented == [str(p).split(":")[0] for p in parameters.values()]


@pytest.mark.parametrize("name", EXPORTED)
def test_the_default_decay_is_zero_for_groups_that_are_added_later_too(name):
    model = mlp()
    optimizer = getattr(mupkit, name)([model.hidden.weight], lr=0.1)
    assert optimizer.defaults["weight_decay"] == 0
