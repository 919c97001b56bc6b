"""The readouts: their output, their initialization, and what copies keep."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mupkit
from mupkit import MuReadout, MuSharedReadout, set_base_shapes
from tests.mupkit.models import MLP, Tied


def readout(width=64, base=16, **options):
    torch.manual_seed(0)
    return set_base_shapes(MuReadout(width, 5, **options), MuReadout(base, 5, **options))


def test_output_is_divided_by_the_width_multiplier():
    layer, x = readout(output_mult=3.0), torch.randn(2, 7, 64)
    expected = (3 / 4) * (x @ layer.weight.T) + layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert not torch.allclose(layer(x), F.linear(x, layer.weight, layer.bias))
    assert layer.width_mult() == 4


def test_at_base_width_it_is_a_linear_layer_bit_for_bit():
    layer, x = readout(16, 16), torch.randn(3, 16)
    torch.manual_seed(0)
    linear = nn.Linear(16, 5)
    assert torch.equal(layer.weight, linear.weight)
    assert torch.equal(layer.bias, linear.bias)
    assert torch.equal(layer(x), linear(x))


@pytest.mark.parametrize("output_mult", [1.0, 3.0])
@pytest.mark.parametrize("base", [16, 5])
def test_factors_of_one_are_left_out_and_change_no_bit(output_mult, base):
    layer = readout(16, base, output_mult=output_mult)
    found, expected = (torch.randn(3, 16, requires_grad=True) for _ in range(2))
    expected.data = found.data.clone()
    layer(found).square().sum().backward()
    scaled = output_mult * expected / (16 / base)
    F.linear(scaled, layer.weight, layer.bias).square().sum().backward()
    assert torch.equal(found.grad, expected.grad)
    passes = (output_mult != 1) + (base != 16)
    nodes = [layer(found).grad_fn]
    for node in nodes:
        nodes += [later for later, _ in node.next_functions if later is not None]
    count = sum(node.name() in ("MulBackward0", "DivBackward0") for node in nodes)
    assert count == passes


def test_weight_and_bias_have_the_std_of_the_base_width():
    torch.manual_seed(0)
    linear = nn.Linear(64, 5)
    assert torch.equal(readout().weight, 2 * linear.weight)
    assert torch.equal(readout().bias, 2 * linear.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_zero_initialization(bias):
    layer = readout(bias=bias, readout_zero_init=True)
    assert (layer.bias is not None) is bias
    assert all(p.count_nonzero() == 0 for p in layer.parameters())
    nn.init.ones_(layer.weight)
    layer.reset_parameters()
    assert layer.weight.count_nonzero() == 0


def test_without_base_shapes_it_refuses_to_run():
    with pytest.raises(ValueError, match=r"call mupkit\.set_base_shapes"):
        MuReadout(16, 5)(torch.randn(2, 16))


def test_it_is_a_linear_layer_to_everyone_else():
    layer = MuReadout(16, 5, device="meta", dtype=torch.bfloat16)
    assert (layer.weight.device.type, layer.bias.dtype) == ("meta", torch.bfloat16)
    assert isinstance(layer, nn.Linear)
    assert list(layer.state_dict()) == list(nn.Linear(16, 5).state_dict())


def test_the_multiplier_survives_what_loses_attributes_of_parameters():
    model = set_base_shapes(MLP(mupkit, 64, 64), MLP(mupkit, 16, 16))
    x = torch.randn(3, 8)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    plain = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert torch.equal(torch.func.functional_call(model, plain, (x,)), expected)
    model.load_state_dict(plain, assign=True)
    assert torch.equal(model(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)


def shared(width=64, base=16, dtype=torch.float32, **options):
    """A tied model, whose width multiplier is 4."""

    def build(size):
        model = Tied(size, lambda weight: MuSharedReadout(weight, **options)).to(dtype)
        model.readout.weight = model.word.weight
        return model

    torch.manual_seed(0)
    return set_base_shapes(build(width), build(base), delta=build(base + 1))


def test_shared_readout_multiplies_the_logits_and_leaves_the_embedding():
    model, x = shared(output_mult=3.0), torch.randn(2, 7, 64)
    assert model.readout.weight is model.word.weight
    assert model.readout.bias.count_nonzero() == 0
    torch.testing.assert_close(model.readout(x), (3 / 4) * x @ model.word.weight.T)
    torch.manual_seed(0)
    assert torch.equal(model.word.weight, nn.Embedding(11, 64).weight)


def test_shared_readout_gives_the_embedding_both_gradients():
    model, tokens = shared(bias=False), torch.tensor([1, 2, 3])
    model(tokens).square().sum().backward()
    as_input, as_output = (model.word.weight.detach().clone().requires_grad_() for _ in range(2))
    hidden = torch.relu(model.hidden(F.embedding(tokens, as_input)))
    F.linear(hidden / 4, as_output).square().sum().backward()
    torch.testing.assert_close(model.word.weight.grad, as_input.grad + as_output.grad)


@pytest.mark.parametrize("width", [16, 64, 256, 1024])
def test_shared_readout_keeps_both_ends_of_the_model_the_same_size(width):
    """Embeddings of size 1 and logits that shrink as 1/sqrt(width), from independent weights."""
    model = shared(width)
    x = model.word(torch.arange(11))
    assert x.std().item() == pytest.approx(1, rel=0.1)
    logits = model.readout(torch.randn(4096, width))
    assert logits.std().item() == pytest.approx(4 * (width / 16) ** -0.5, rel=0.1)


@pytest.mark.parametrize("width", [16, 256])
def test_shared_readout_learns_at_the_rate_of_an_input_weight(width):
    model = shared(width, output_mult=2.0)
    for optimizer, rate in ((mupkit.MuAdam, 0.1), (mupkit.MuSGD, 0.1 * width / 16)):
        groups = optimizer(model, lr=0.1).param_groups
        holding = [g for g in groups if any(p is model.word.weight for p in g["params"])]
        assert [g["lr"] for g in holding] == [pytest.approx(rate)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_shared_readout_takes_the_type_of_the_embedding(dtype):
    embedding = nn.Embedding(11, 16, dtype=dtype)
    layer = set_base_shapes(MuSharedReadout(embedding.weight), None)
    assert layer.bias.dtype == dtype
    assert layer(embedding(torch.arange(3))).dtype == dtype


def test_resetting_a_shared_readout_leaves_the_embedding():
    model = shared()
    nn.init.ones_(model.readout.bias)
    model.readout.reset_parameters()
    assert model.readout.bias.count_nonzero() == 0
    assert model.word.weight.count_nonzero() > 0
