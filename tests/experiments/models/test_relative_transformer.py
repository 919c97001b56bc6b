"""Relative attention: its terms, causality, the paper's sizes, width-independence in µP."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mupkit
from experiments.models.relative_transformer import (
    RelativeOptions,
    RelativeTransformer,
    build_relative,
    by_distance,
    distances,
)
from experiments.models.transformer import TransformerShape
from mupkit.coord_check import coord_check
from tests.experiments.models.images import failures

WORDS, LENGTH = 50, 12
WIDTHS = (64, 128, 256, 512)


def shape(width: int, d_head: int = 16) -> TransformerShape:
    return TransformerShape(width, width // d_head, d_head, d_head, 4 * width)


def options(**changes) -> RelativeOptions:
    return RelativeOptions(**{"vocab_size": WORDS, "seq_len": LENGTH, "n_layer": 2, **changes})


def model(width=64, mup=True, **changes) -> RelativeTransformer:
    torch.manual_seed(0)
    return build_relative(shape(width), options(**changes), shape(32) if mup else None)


def tokens() -> torch.Tensor:
    return torch.randint(WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(1))


def test_logits_by_distance_become_logits_by_key() -> None:
    x_BHLL = torch.randn(2, 3, 5, 5)
    y_BHLL = by_distance(x_BHLL)
    for i in range(5):
        for j in range(i + 1):
            assert torch.equal(y_BHLL[..., i, j], x_BHLL[..., i, 4 - (i - j)])


def test_attention_has_the_four_terms_of_transformer_xl() -> None:
    block = model().blocks[0].attention.double()
    for p in (block.content_bias, block.distance_bias):
        torch.nn.init.normal_(p)
    x_BLD = torch.randn(1, 6, 64, dtype=torch.float64)
    r_LD = distances(6, 64).double()
    found = block(x_BLD, r_LD, torch.full((6, 6), -torch.inf, dtype=torch.float64).triu(1))
    q, k, v = (p(x_BLD)[0].view(6, 4, 16) for p in (block.query, block.key, block.value))
    u, w = (p.view(4, 16) for p in (block.content_bias, block.distance_bias))
    expected = torch.zeros(6, 4, 16, dtype=torch.float64)
    for i in range(6):
        for h in range(4):
            logits = []
            for j in range(i + 1):
                far = block.distance(r_LD[5 - (i - j)]).view(4, 16)[h]
                logits.append((q[i, h] + u[h]) @ k[j, h] + (q[i, h] + w[h]) @ far)
            shares = (torch.stack(logits) * block.scale).softmax(0)
            expected[i, h] = shares @ v[: i + 1, h]
    torch.testing.assert_close(found[0], block.out(expected.flatten(1)))


def test_sinusoids_are_of_the_distance() -> None:
    r_LD = distances(4, 6)
    assert torch.equal(r_LD[-1], torch.tensor([0.0] * 3 + [1.0] * 3))
    assert r_LD[0, 0] == torch.tensor(3.0).sin()
    assert torch.equal(distances(3, 6), r_LD[1:])


@pytest.mark.parametrize("attention", ["relative", "absolute"])
def test_no_token_sees_its_future(attention) -> None:
    net = model(attention=attention)
    changed_BL = tokens()
    changed_BL[:, 7:] = 0
    torch.testing.assert_close(net(changed_BL)[:, :7], net(tokens())[:, :7], rtol=0, atol=0)


def test_relative_positions_do_not_know_where_a_sequence_begins() -> None:
    # With one block, a token's attention to the two before it is the same wherever they stand.
    one = tokens()[:1, :3].repeat(1, 4)
    for attention, same in (("relative", True), ("absolute", False)):
        net = model(attention=attention, n_layer=1)
        torch.nn.init.normal_(net.blocks[0].attention.query.weight, std=0.5)
        mask = net.mask_LL.clone()
        mask[torch.ones_like(mask, dtype=torch.bool).tril(-3)] = -torch.inf
        net.mask_LL = mask
        logits = net(one)[0]
        assert torch.allclose(logits[5], logits[11], atol=1e-6) is same


# Tensor Programs V, Section 7.4: "roughly 40 million", 6.7B, "168 times smaller". The target of
# 6.7B has absolute positions; the projections of relative ones add 32 * 4096^2.
@pytest.mark.parametrize(
    ("width", "attention", "count", "stated"),
    [
        (256, "relative", 40_219_392, 40e6),
        (4096, "absolute", 6_657_880_064, 6.7e9),
        (4096, "relative", 7_186_624_512, None),
    ],
)
def test_paper_scale_models_have_the_papers_parameters(width, attention, count, stated) -> None:
    big = RelativeOptions(50_257, 2048, 32, attention)
    with torch.device("meta"):
        net = build_relative(shape(width, 128), big, shape(256, 128))
    assert sum(p.numel() for p in net.parameters()) == count
    assert all(p.is_meta for p in net.parameters())
    assert stated is None or count == pytest.approx(stated, rel=0.02)


def test_sp_and_mup_are_equal_at_the_base_width() -> None:
    torch.testing.assert_close(model(32)(tokens()), model(32, mup=False)(tokens()))


def test_hyperparameters_act_where_they_should() -> None:
    plain = model()
    scaled = model(init_scale=3.0)
    for (name, p), q in zip(plain.named_parameters(), scaled.parameters(), strict=True):
        factor = 1.0 if "norm" in name or name.endswith("bias") else 3.0
        torch.testing.assert_close(q, factor * p)
    assert model(attn_temperature=2.0).blocks[0].attention.scale == (
        plain.blocks[0].attention.scale / 2
    )
    torch.testing.assert_close(model(output_temperature=2.0)(tokens()), plain(tokens()) / 2)
    for key in ("embed_mult", "relative_mult"):
        assert not torch.allclose(model(**{key: 5.0})(tokens()), plain(tokens()))


def loss(net):
    x_BL = tokens()
    return F.cross_entropy(net(x_BL[:, :-1]).flatten(0, 1), x_BL[:, 1:].flatten())


def wide(width, attention="relative", mup=True) -> RelativeTransformer:
    """Queries start at zero, so that less of the attention logits is chance."""
    net = model(width, mup, attention=attention, embed_mult=10.0)
    for name, p in net.named_parameters():
        if name.endswith("query.weight"):
            nn.init.zeros_(p)
    return net


def square_root(width):
    net = wide(width)
    for block in net.blocks:
        block.attention.scale *= block.attention.query.out_features**0.5
    return net


def plain_readout(width):
    net = wide(width)
    net.readout.set_width_mult(1.0)
    return net


check = partial(coord_check, make_optimizer=lambda net: mupkit.MuAdam(net, lr=0.005), loss=loss)


@pytest.mark.parametrize("attention", ["relative", "absolute"])
def test_nothing_depends_on_width_in_mup(attention) -> None:
    report = check(partial(wide, attention=attention), WIDTHS)
    assert report.passed, report


@pytest.mark.parametrize("wrong", [partial(wide, mup=False), square_root, plain_readout])
def test_mistakes_are_found(wrong) -> None:
    assert failures(check(wrong, WIDTHS))
