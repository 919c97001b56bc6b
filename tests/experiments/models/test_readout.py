"""Readouts of words: torch's numbers, whichever product makes the weight's gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, vmap

import mupkit
from experiments.models import readout

NARROW = (readout.ROWS, 8, readout.WORDS)  # rows, width, words


def made(kind, width, words, bias=False):
    if kind is readout.Readout:
        model = nn.Sequential(kind(width, words, bias=bias, output_mult=3.0))
    else:
        word = nn.Embedding(words, width)
        model = nn.Sequential(word, kind(word.weight, bias=bias, output_mult=3.0))
    return mupkit.set_base_shapes(model, None)[-1]


@pytest.mark.parametrize("kind", [readout.Readout, readout.SharedReadout])
@pytest.mark.parametrize(
    ("rows", "width", "words", "bias", "own"),
    [
        (*NARROW, False, True),
        (*NARROW, True, False),
        (readout.ROWS - 2, *NARROW[1:], False, False),
        (readout.ROWS, readout.WIDTH, readout.WORDS, False, False),
        (*NARROW[:2], readout.WORDS - 1, False, False),
    ],
)
def test_outputs_and_gradients_are_torchs(kind, rows, width, words, bias, own) -> None:
    torch.manual_seed(0)
    layer = made(kind, width, words, bias)
    x = torch.randn(2, rows // 2, width, requires_grad=True)
    upstream = torch.randn(2, rows // 2, words)
    found = layer(x)
    assert ("_Product" in found.grad_fn.next_functions[0][0].name()) == own
    wanted = F.linear(3.0 * x, layer.weight, layer.bias)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, layer.weight), upstream),
        torch.autograd.grad(wanted, (x, layer.weight), upstream),
        strict=True,
    ):
        assert ours.stride() == theirs.stride()  # else torch would copy it once more
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_stacks_and_lower_precision_are_torchs() -> None:
    rows, width, words = NARROW
    layer, x = made(readout.Readout, width, words), torch.randn(rows, width)
    weights = torch.stack([layer.weight.detach(), 2 * layer.weight.detach()])
    found = vmap(lambda w: functional_call(layer, {"weight": w}, (x,)))(weights)
    torch.testing.assert_close(found[1], 2 * layer(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
