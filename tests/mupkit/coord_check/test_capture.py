"""What is seen of a forward pass, and that nothing remains of the look."""

from __future__ import annotations

import math
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mupkit.coord_check.capture import OUTPUT, capture, fused_logits
from tests.mupkit.coord_check import cases
from tests.mupkit.models import CNN, PLAIN, batch, train


def seen(model, *inputs):
    return capture(model.double(), lambda m: m(*inputs))


@pytest.fixture
def x():
    return torch.randn(2, 5, 8, dtype=torch.float64)


class Softmax(nn.Module):
    """Calls one spelling of softmax."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling

    def forward(self, x):
        return self.spelling(x)


SPELLINGS = {
    "torch": lambda x: torch.softmax(x, -1),
    "method": lambda x: x.softmax(-1),
    "functional": lambda x: F.softmax(x, dim=-1),
    "special": lambda x: torch.special.softmax(x, -1),
    "module": lambda x: nn.Softmax(dim=-1)(x),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_softmax_is_seen_once(spelling, x):
    found = seen(nn.Sequential(Softmax(SPELLINGS[spelling])), x)
    assert list(found) == ["0.softmax", "0", OUTPUT]
    assert torch.equal(found["0.softmax"], x)


def test_several_softmaxes_are_numbered_and_log_softmax_is_none(x):
    model = Softmax(lambda x: (x.softmax(-1) + (2 * x).softmax(-1)).log_softmax(-1))
    assert list(seen(model, x)) == ["softmax", "softmax#2", OUTPUT]


def attention_logits(model, tokens):
    """By hand, with -inf where masked."""
    attention = model.attention
    x = model.norm(model.word(tokens) + model.position)
    q, k = (
        project(x).view(*tokens.shape, 2, -1).transpose(1, 2)
        for project in (attention.query, attention.key)
    )
    logits = attention.scale * torch.einsum("bhlk,bhmk->bhlm", q, k)
    return logits + torch.full((7, 7), -math.inf, dtype=logits.dtype).triu(1)


@pytest.mark.parametrize("fused", [False, True])
def test_attention_logits_are_those_by_hand(fused):
    model = cases.transformer(64, fused=fused).double()
    tokens, _ = batch("transformer")
    found = seen(model, tokens)
    torch.testing.assert_close(found["attention.softmax"], attention_logits(model, tokens))
    assert [name for name in found if "softmax" in name] == ["attention.softmax"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.ones(5, 5, dtype=torch.bool).tril()},
        {"attn_mask": torch.arange(25, dtype=torch.float64).view(5, 5)},
        {"dropout_p": 0.5},
        {"enable_gqa": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("axes", [3, 4])
def test_fused_attention_in_all_its_forms(options, axes):
    heads = 2 if "enable_gqa" in options else 4
    q = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    k, v = torch.randn(2, 3, heads, 5, 8, dtype=torch.float64)
    if axes == 3:
        q, k, v = q[0], k[0], v[0]
    model = Softmax(lambda q: F.scaled_dot_product_attention(q, k, v, **options))
    logits = seen(model, q)["softmax"]
    known = {name: options[name] for name in options if name not in ("dropout_p", "enable_gqa")}
    torch.testing.assert_close(logits, fused_logits(q, k, **known))
    if "dropout_p" not in options:
        v = v.repeat_interleave(4 // heads, -3)
        torch.testing.assert_close(logits.softmax(-1) @ v, model(q))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_torchs_own_attention_is_seen_in_either_mode(x, training, need_weights):
    model = nn.MultiheadAttention(8, 2, batch_first=True).double().train(training)
    found = capture(model, lambda m: m(x, x, x, need_weights=need_weights)[0])
    assert found["softmax"].numel() == 2 * 2 * 5 * 5
    assert f"{OUTPUT}[0]" in found


@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_transformer_layer_is_seen_in_either_mode(x, training):
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double().train(training)
    assert {"self_attn.softmax", "linear1", OUTPUT} <= seen(model, x).keys()


def test_outputs_of_several_tensors_and_of_none(x):
    class Many(nn.Module):
        def forward(self, x):
            return OrderedDict(a=x, b=x.argmax(-1), c=(x, x), d=None)

    class Pair(nn.Module):
        def forward(self, x):
            return x, 2 * x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.many = Pair(), Many()

        def forward(self, x):
            return self.many(self.pair(self.pair(x)[0])[1])

    assert list(seen(Model(), x)) == [
        *("pair[0]", "pair[1]", "pair[0]#2", "pair[1]#2", "many[a]", f"{OUTPUT}[a]")
    ]


def test_copies_are_kept_of_what_is_changed_in_place(x):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True))
    found = seen(model, x)
    assert found["0"].min() < 0 <= found["1"].min()


def test_parametrizations_are_not_activations(x):
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    assert list(seen(model, x)) == ["0", OUTPUT]


def test_the_mode_and_the_hooks_are_as_before(x):
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout()).eval()
    seen(model, x)
    assert not model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError):
        capture(model, lambda m: m(torch.zeros(3)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_random_generators_are_as_before_and_dropout_is_the_same_each_time(x):
    model = nn.Sequential(nn.Dropout())
    state = torch.get_rng_state()
    first, second = seen(model, x), seen(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["0"], second["0"])


def test_training_with_looks_between_is_training_without():
    def trained(look):
        torch.manual_seed(0)
        model = nn.Sequential(CNN(PLAIN, 8, 16), nn.Dropout(0.2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        images, labels = batch("cnn")
        for _ in range(3):
            if look:
                found = capture(model, lambda m: F.cross_entropy(m(images), labels))
                assert "0.norm" in found
            train(model, optimizer, "cnn", steps=1)
        return model.state_dict()

    looked, plain = trained(True), trained(False)
    assert looked.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(looked[name], value), name
