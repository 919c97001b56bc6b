"""Folding: the same outputs from plain layers, and nothing of µP left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import mupkit
from tests.mupkit.kinds import KINDS, TOKENS, make, rates, step, tied
from tests.mupkit.models import PLAIN, Transformer

KEPT = ("infshape", "mup_rules")


def transformer(width):
    model = Transformer(PLAIN, width, 3 * width)
    model.temperature = nn.Parameter(torch.ones(1))
    return model


# The plain model that a folded one's state dict must fit.
PLAIN_MODELS = {
    kind: tied if build(8).__class__.__name__ == "Tied" else transformer
    for kind, (build, _) in KINDS.items()
}


def trained(kind):
    model = make(kind)
    step(model, steps=5)
    return model


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6 * right.abs().max().item())


def assert_plain(model):
    """No module, attribute or hook that torch does not have."""
    for name, module in model.named_modules():
        assert not type(module).__module__.startswith("mupkit"), name
        assert not parametrize.is_parametrized(module), name
        assert not [key for key in vars(module) if "mup" in key], name
        for kind, hooks in vars(module).items():
            if kind.endswith(("_hooks", "_hooks_with_kwargs")):
                assert not hooks, f"{name}: {kind}"
    for name, p in model.named_parameters():
        assert isinstance(p, nn.Parameter), name
        assert p.is_leaf, name
        assert p.requires_grad, name
        assert not any(hasattr(p, key) for key in KEPT), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_model_is_plain_and_gives_the_same(kind):
    model = trained(kind)
    plain = mupkit.fold(model)
    assert_plain(plain)
    close(plain(TOKENS), model(TOKENS))
    assert type(plain.readout) is nn.Linear
    assert "mup" not in str(plain.state_dict()._metadata)


@pytest.mark.parametrize("kind", KINDS)
def test_its_state_dict_fits_a_model_that_never_heard_of_mup(kind):
    model = trained(kind)
    fresh = PLAIN_MODELS[kind](48)
    state = mupkit.fold(model).state_dict()
    if "readout.weight" in state and kind in ("MuSharedReadout", "table 8 tied"):
        fresh.readout.weight = nn.Parameter(torch.empty_like(fresh.readout.weight))  # its own now
    fresh.load_state_dict(state)
    close(fresh(TOKENS), model(TOKENS))


@pytest.mark.parametrize("kind", KINDS)
def test_the_original_is_unchanged_and_trains_on(kind):
    model, twin = trained(kind), trained(kind)
    plain = mupkit.fold(model)
    with torch.no_grad():
        for p in plain.parameters():
            p.zero_()
    assert torch.equal(model(TOKENS), twin(TOKENS))
    assert rates(model) == rates(twin)
    step(model)
    step(twin)
    assert torch.equal(model(TOKENS), twin(TOKENS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_model_can_be_parametrized_anew(kind):
    model = trained(kind)
    plain = mupkit.fold(mupkit.fold(model))
    mupkit.parametrize(plain, None)
    close(plain(TOKENS), model(TOKENS))
    assert len(set(rates(plain).values())) == 1


def test_tied_weights_come_apart_only_where_a_multiplier_says_so():
    model = mupkit.fold(make("table 8 tied"))
    assert model.readout.weight is not model.word.weight
    at_base = mupkit.fold(make("table 8 tied", width=16))
    assert at_base.readout.weight is at_base.word.weight


class Convolutional(nn.Module):
    """Convolutions alone, the last one a readout; and a transposed one."""

    def __init__(self, width):
        super().__init__()
        self.down = nn.Conv2d(2, width, 3)
        self.up = nn.ConvTranspose2d(width, width, 3)
        self.readout = nn.Conv2d(width, 3, 1)
        self.readout_up = nn.ConvTranspose2d(width, 3, 2, bias=False)

    def forward(self, x):
        x = torch.relu(self.up(torch.relu(self.down(x))))
        return self.readout(x).mean((2, 3)) + self.readout_up(x).mean((2, 3))


class Recurrent(nn.Module):
    """An LSTM, attention and a readout of its own name."""

    def __init__(self, width):
        super().__init__()
        self.lstm = nn.LSTM(3, width, batch_first=True)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.heads = nn.ModuleList([nn.Linear(width, 3), nn.Linear(width, 2)])

    def forward(self, x):
        x, _ = self.lstm(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return torch.cat([head(x) for head in self.heads], -1)


OTHERS = [
    *((Convolutional, (4, 2, 6, 6), rules) for rules in ("3", "8", "9", "ntp")),
    *((Recurrent, (4, 5, 3), rules) for rules in ("3", "8")),
]


@pytest.mark.parametrize(("build", "shape", "rules"), OTHERS)
def test_other_layers(build, shape, rules):
    torch.manual_seed(0)
    model = mupkit.parametrize(build(32), build(8), rules=mupkit.RULES[rules])
    x = torch.randn(shape)
    optimizer = mupkit.MuAdam(model, lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    plain = mupkit.fold(model)
    assert_plain(plain)
    close(plain(x), model(x))
    fresh = build(32)
    fresh.load_state_dict(plain.state_dict())
    close(fresh(x), model(x))


def test_a_readout_alone_and_its_output_multiplier():
    torch.manual_seed(0)
    layer = mupkit.set_base_shapes(
        mupkit.MuReadout(64, 5, output_mult=3.0, bias=False), mupkit.MuReadout(16, 5, bias=False)
    ).eval()
    plain, x = mupkit.fold(layer), torch.randn(7, 64)
    assert type(plain) is nn.Linear
    assert plain.bias is None
    assert not plain.training
    torch.testing.assert_close(plain.weight, 0.75 * layer.weight)
    close(plain(x), layer(x))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_a_wrapped_model_is_folded_inside(wrap):
    model = make("table 8")
    plain = mupkit.fold(wrap(model))
    assert type(plain) is Transformer
    assert_plain(plain)
    close(plain(TOKENS), model(TOKENS))


def test_your_own_hooks_stay():
    model, seen = make("table 8"), []
    model.readout.register_forward_pre_hook(Count(seen))
    plain = mupkit.fold(model)
    plain(TOKENS)
    assert len(plain.readout._forward_pre_hooks) == 1


class Count:
    """A hook that can be copied."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, module, args):
        self.seen.append(module)


def test_the_type_stays():
    model = copy.deepcopy(make("MuReadout")).to(torch.bfloat16)
    assert {p.dtype for p in mupkit.fold(model).parameters()} == {torch.bfloat16}
