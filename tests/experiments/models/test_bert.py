"""MegatronBert in SP and µP: the paper's sizes, the factors of its hyperparameters, its width."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from transformers import MegatronBertForMaskedLM

from experiments.models.bert import (
    Bert,
    BertOptions,
    bert_config,
    build_bert,
)
from experiments.models.transformer import TransformerShape
from experiments.train.engine import make_optimizer
from mupkit.coord_check import coord_check
from tests.experiments.models.images import failures

WORDS, LENGTH = 60, 10


def shape(width, heads=2):
    return TransformerShape(width, heads, width // heads, width // heads, 2 * width)


def model(width=64, mup=True, **changes) -> Bert:
    torch.manual_seed(0)
    options = BertOptions(**{"vocab_size": WORDS, "seq_len": LENGTH, "n_layer": 2, **changes})
    return build_bert(shape(width), options, shape(32) if mup else None)


def tokens() -> torch.Tensor:
    return torch.randint(5, WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(1))


# Section 7.3: 13M, 110M and 350M, which count what the paper does not say (Megatron-LM gives 336M
# for BERT-large). Counted here with 30,522 word pieces, the readout tied.
@pytest.mark.parametrize(
    ("dims", "layers", "count", "stated", "within"),
    [
        (TransformerShape(256, 8, 32, 32, 256), 10, 12_000_314, 13e6, 0.08),
        (TransformerShape(768, 12, 64, 64, 3072), 12, 109_514_298, 110e6, 0.01),
        (TransformerShape(1024, 16, 64, 64, 4096), 24, 335_174_458, 350e6, 0.05),
    ],
)
def test_paper_scale_models_have_about_the_papers_parameters(
    dims, layers, count, stated, within
) -> None:
    options = BertOptions(30_522, 512, layers)
    with torch.device("meta"):
        net = MegatronBertForMaskedLM(bert_config(dims, options))
    assert sum(p.numel() for p in net.parameters()) == count == pytest.approx(stated, rel=within)


def test_sp_is_the_librarys_model() -> None:
    net = model(mup=False)
    torch.manual_seed(0)
    plain = MegatronBertForMaskedLM(bert_config(shape(64), net.options))
    torch.testing.assert_close(net(tokens()), plain(tokens()).logits, rtol=0, atol=0)


def test_sp_and_mup_are_equal_at_the_base_width_and_not_elsewhere() -> None:
    torch.testing.assert_close(model(32)(tokens()), model(32, mup=False)(tokens()))
    assert not torch.allclose(model(64)(tokens()), model(64, mup=False)(tokens()))


@pytest.mark.parametrize("mup", [True, False])
def test_multipliers_of_logits(mup) -> None:
    plain, twice = model(mup=mup), model(mup=mup, output_mult=2.0)
    bias = plain.masked.cls.predictions.decoder.bias
    torch.testing.assert_close(twice(tokens()) - bias, 2 * (plain(tokens()) - bias))
    name = "bert.encoder.layer.1.attention.self"
    seen = {}
    for net in (plain, model(mup=mup, attn_mult=3.0)):
        query = net.masked.get_submodule(f"{name}.query")
        query.register_forward_hook(lambda m, a, out, net=net: seen.setdefault(net, out))
        first = net.masked.get_submodule("bert.encoder.layer.0.attention.self.query")
        first.register_forward_hook(lambda m, a, out, net=net: seen.setdefault((net, 0), out))
        net(tokens())
    before, after = (seen[key] for key in seen if isinstance(key, tuple))
    torch.testing.assert_close(after, 3 * before)


def test_every_parameter_has_its_factor_of_the_rate() -> None:
    net = model(embed_factor=2.0, gain_mult=3.0, bias_mult=5.0)
    factors = {name: net.adam_factor(name) for name, _ in net.named_parameters()}
    by_factor = {f: [n for n, g in factors.items() if g == f] for f in (1.0, 2.0, 3.0, 5.0)}
    assert {n.split(".")[-2] for n in by_factor[2.0]} == {
        "word_embeddings",
        "position_embeddings",
        "token_type_embeddings",
    }
    assert all(n.endswith("weight") and p.ndim == 1 for n, p in named(net, by_factor[3.0]))
    assert all(n.endswith("bias") and p.ndim == 1 for n, p in named(net, by_factor[5.0]))
    assert all(p.ndim == 2 for _, p in named(net, by_factor[1.0]))
    assert sum(map(len, by_factor.values())) == len(factors)
    assert len(by_factor[3.0]) == 2 * 2 + 2  # two a block, the last one, the head's


def named(net, names):
    return [(n, p) for n, p in net.named_parameters() if n in names]


def test_a_shape_that_the_library_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="MegatronBert has d_k = d_head = d_model / n_head"):
        bert_config(TransformerShape(64, 2, 32, 16, 64), BertOptions(WORDS, LENGTH, 1))


def loss(net):
    return F.cross_entropy(net(tokens()).flatten(0, 1), tokens().flatten())


def quiet(width, mup=True):
    """Queries start at zero, so that less of the attention logits is chance."""
    net = model(width, mup)
    for name, p in net.named_parameters():
        if name.endswith("query.weight"):
            torch.nn.init.zeros_(p)
    return net


def adam(net):
    class Config:
        log2lr, optimizer, beta1, beta2, eps, weight_decay = -7.0, "adam", 0.9, 0.999, 1e-8, 0.0
        precision = "float32"

    return make_optimizer(net, Config)


def test_coordinates_are_flat_in_mup_and_not_in_sp() -> None:
    check = partial(coord_check, make_optimizer=adam, loss=loss)
    assert not failures(check(quiet, (64, 128, 256, 512)))
    assert failures(check(partial(quiet, mup=False), (64, 128, 256, 512)))
