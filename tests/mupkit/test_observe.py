"""What a forward pass does with weights, scalars and widths is seen, whatever its code calls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mupkit.observe import Logits, changed, observe
from mupkit.parametrization import infshapes
from mupkit.verify import attention_mults, check_multipliers, initializations

USES = {
    "linear": (lambda x, w: F.linear(x, w), "out_in"),
    "matmul": (lambda x, w: x @ w, "in_out"),
    "left": (lambda x, w: w @ x.mT, "out_in"),
    "transposed": (lambda x, w: x @ w.t(), "out_in"),
    "property": (lambda x, w: x @ w.T, "out_in"),
    "twice": (lambda x, w: x @ w.transpose(0, 1).mT, "in_out"),
    "viewed": (lambda x, w: F.linear(x, w.view(-1, 4)[:]), "out_in"),
    "addmm": (lambda x, w: torch.addmm(x.new_zeros(2), x, w), "in_out"),
    "einsum": (lambda x, w: torch.einsum("bi,io->bo", x, w), "in_out"),
    "einsum of out_in": (lambda x, w: torch.einsum("bi,oi->bo", x, w), "out_in"),
    "added": (lambda x, w: x + w[0, 0], None),
}


class Using(nn.Module):
    def __init__(self, use, shape):
        super().__init__()
        self.use, self.w = use, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.use(x, self.w)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_layout_of_a_parameter_is_seen(use, device):
    function, expected = USES[use]
    model = Using(function, (4, 2) if expected == "in_out" else (2, 4)).to(device)
    found = observe(model, lambda: model(torch.randn(3, 4, device=device)))
    assert found.layouts == ({} if expected is None else {"w": expected})


D = 16


def fused(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def fused_scaled(q, k, v):
    return F.scaled_dot_product_attention(q / 2, k, v, scale=0.5)


def eager(q, k, v):
    return (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v


def in_place(q, k, v):
    logits = torch.matmul(q, k.transpose(-1, -2))
    logits /= torch.tensor(math.sqrt(q.shape[-1]))
    return F.softmax(logits.masked_fill(torch.zeros(3, 3, dtype=torch.bool), -1e9), dim=-1) @ v


def batched(q, k, v):
    q, k = q.flatten(0, 1), k.flatten(0, 1)
    logits = torch.baddbmm(torch.zeros(2, 3, 3), q, k.mT, alpha=q.shape[-1] ** -0.5)
    return logits.softmax(-1) @ v.flatten(0, 1)


def summed(q, k, v):
    logits = torch.einsum("bhid,bhjd->bhij", q, k) + torch.einsum("bhid,bhjd->bhij", q, v)
    return (logits * q.shape[-1] ** -0.5).softmax(-1) @ v


def twice(q, k, v):
    return fused(q / math.sqrt(q.shape[-1]), k, v)


FORMS = {
    fused: D**-0.5,
    fused_scaled: 0.25,
    eager: D**-0.5,
    in_place: D**-0.5,
    batched: D**-0.5,
    summed: D**-0.5,
    twice: 1 / D,
}


class Attending(nn.Module):
    def __init__(self, attend, d=D):
        super().__init__()
        self.qkv, self.attend = nn.Linear(8, 3 * d), attend

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, -1)).unsqueeze(1).unbind(-2)
        return self.attend(q, k, v)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_the_factor_of_attention_and_the_size_of_its_heads_are_seen(form):
    model = Attending(form)
    (logits,) = observe(model, lambda: model(torch.randn(2, 3, 8))).attention[""]
    assert logits == Logits(D, pytest.approx(FORMS[form]))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_logits_with_the_multiplier_have_1_over_d_whatever_the_model_had(form):
    seen = []
    for d in (4, 64):
        model = Attending(form, d)
        seen.append(observe(model, lambda model=model: model(torch.randn(2, 3, 8))))
    base, wide = ([logits.factor * logits.size for logits in s.attention[""]] for s in seen)
    mult = attention_mults(*seen)[""]
    assert mult * wide[0] == pytest.approx(base[0])


def test_products_over_a_width_without_softmax_are_refused():
    def linear_attention(q, k, v):
        return q @ k.mT @ v

    seen = []
    for d in (4, 64):
        model = Attending(linear_attention, d)
        seen.append(observe(model, lambda model=model: model(torch.randn(2, 3, 8))))
    with pytest.raises(ValueError, match="not understood, over sizes 4 and 64"):
        attention_mults(*seen)


@pytest.mark.parametrize("factor", [1.5, torch.tensor(1.5)])
def test_scalars_are_seen_by_module(factor):
    model = nn.Sequential(nn.Linear(8, 8), Using(lambda x, w: factor * (x / 2), (1,)))
    found = observe(model, lambda: model(torch.randn(3, 8)))
    assert found.factors == {"1": [0.5, 1.5]}
    other = observe(model, lambda: model[1](torch.randn(3, 8)))
    check_multipliers(found, other)
    other.factors["1"] = [0.5, 3.0]
    with pytest.raises(ValueError, match=r"1 multiplies .* 1.5 and 3 in the base"):
        check_multipliers(found, other)


def normalized(x, w):
    return x * x.shape[-1] ** 0.5 / x.square().sum(-1, keepdim=True).sqrt()


def averaged(x, w):
    return x.sum(-1, keepdim=True) / x.shape[-1]


@pytest.mark.parametrize(("use", "factors"), [(averaged, []), (normalized, [8**0.5])])
def test_what_is_summed_may_be_divided_by_its_number(use, factors):
    model = Using(use, (1,))
    found = observe(model, lambda: model(torch.randn(3, 8)))
    assert found.factors.get("", []) == factors


@pytest.mark.parametrize("form", [eager, in_place, batched, summed, twice])
def test_the_factors_of_attention_are_no_other_factors(form):
    """Those of the rest of the module are."""
    model = Attending(lambda q, k, v: 3 * form(q, k, v))
    found = observe(model, lambda: model(torch.randn(2, 3, 8)))
    assert found.factors == {"": [3.0]}


def test_a_multiplier_in_a_hook_is_the_modules_own():
    inner = nn.Linear(8, 8)
    inner.register_forward_pre_hook(lambda module, args: (args[0] * 5,))
    model = nn.Sequential(inner)
    assert observe(model, lambda: model(torch.randn(3, 8))).factors == {"0": [5.0]}


def test_the_pass_leaves_no_trace_even_if_it_fails():
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout())
    with pytest.raises(RuntimeError):
        observe(model, lambda: model(torch.randn(3, 7)))
    assert model[1].training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_numbers_of_two_widths_are_paired():
    assert changed([1, 2], [1, 4]) == [(2, 4)]
    assert changed([2, 16, 7], [2, 16, 64, 16]) == [(7, 64)]
    (pair,) = changed([1], [1, 3])
    assert math.isnan(pair[0]) and pair[1] == 3


@pytest.mark.parametrize("std", ["constant", "torch", "neither"])
@pytest.mark.parametrize("seed", range(5))
def test_the_law_of_an_initialization_is_found(std, seed):
    """Also of a small weight, by drawing again."""
    laws = {"constant": 0.0, "torch": -0.5, "neither": -1.0}

    def build(width, seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(width, width), nn.Linear(width, 3))
        for layer in model:
            nn.init.normal_(layer.weight, std=width ** laws[std])
            nn.init.zeros_(layer.bias)
        return model

    shapes = infshapes(build(24, 0), build(16, 0), None)

    def draw(i):
        return build(16, 100 * seed + i), build(24, 100 * seed + i)

    if std == "neither":
        with pytest.raises(ValueError, match=r"0\.weight \(0\.6"):
            initializations(draw, shapes, {})
    else:
        found = initializations(draw, shapes, {})
        assert {found["0.weight"], found["1.weight"]} == {std}
        assert found["0.bias"] == "constant"
