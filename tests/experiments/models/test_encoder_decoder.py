"""The encoder-decoder: fairseq's function and sizes, SP and µP, width-independence in µP."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mupkit
from experiments.models.encoder_decoder import (
    EOS,
    MAX_LENGTH,
    PAD,
    EncoderDecoder,
    EncoderDecoderOptions,
    build_encoder_decoder,
)
from experiments.models.transformer import TransformerShape
from mupkit.coord_check import coord_check
from tests.experiments.models.fairseq_models import pair, quiet
from tests.experiments.models.fairseq_names import from_fairseq
from tests.experiments.models.images import failures, same_weights, seeded
from tests.experiments.models.sentences import (
    BASE,
    SHARED,
    WORDS,
    batch,
    build,
    loss,
    options,
    sentences,
    shape,
    shifted,
    sp,
)
from tests.mupkit.models import by_name

WIDTHS, FEW = (64, 128, 256, 512), (32, 64, 128)
LR = 0.005


def parameters(dims: TransformerShape, options: EncoderDecoderOptions) -> int:
    """By hand: weights and biases of layers, gains and biases of norms, embeddings, readout."""
    d, keys, values = dims.d_model, dims.n_head * dims.d_k, dims.n_head * dims.d_head
    attention = 2 * (d * keys + keys) + d * values + values + values * d + d
    rest = 2 * d * dims.d_ffn + dims.d_ffn + d + 2 * 2 * d
    layers = options.n_encoder_layer * (attention + rest)
    layers += options.n_decoder_layer * (2 * attention + rest + 2 * d)
    source, target = options.source_vocab_size, options.target_vocab_size
    words = {"none": source + 2 * target, "decoder": source + target, "all": target}
    return layers + words[options.shared] * d


IWSLT = EncoderDecoderOptions(8848, 6632, 6, 6, "decoder")
WMT = EncoderDecoderOptions(32768, 32768, 6, 6, "all")


# Source of the millions: Tensor Programs V, Sections 7.1 and 7.2. Those of IWSLT14 are the numbers
# of fairseq's d_ffn = 2 d_model; with 4 d_model they would be 52 and 4.8.
@pytest.mark.parametrize(
    ("dims", "options", "count", "millions"),
    [
        (TransformerShape(512, 4, 128, 128, 1024), IWSLT, 39_469_056, 40),
        (TransformerShape(128, 4, 32, 32, 256), IWSLT, 3_969_024, 4),
        (TransformerShape(512, 4, 128, 128, 2048), IWSLT, 52_064_256, None),
        (TransformerShape(128, 4, 32, 32, 512), IWSLT, 4_758_528, None),
        (TransformerShape(1024, 16, 64, 64, 4096), WMT, 209_911_808, 211),
        (TransformerShape(256, 4, 64, 64, 256), WMT, 14_720_000, 15),
    ],
)
def test_paper_scale_models_have_the_papers_parameters(dims, options, count, millions) -> None:
    with torch.device("meta"):
        model = build_encoder_decoder(dims, options, dims)
    assert sum(p.numel() for p in model.parameters()) == count == parameters(dims, options)
    assert all(p.is_meta for p in model.parameters())
    assert millions is None or count / 1e6 == pytest.approx(millions, rel=0.02)


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("mup", [False, True])
def test_dimensions_are_free(shared, mup) -> None:
    dims, base = TransformerShape(18, 3, 5, 7, 11), TransformerShape(9, 2, 4, 3, 6)
    chosen = EncoderDecoderOptions(13, 13 if shared == "all" else 17, 2, 3, shared)
    model = build_encoder_decoder(dims, chosen, base if mup else None)
    assert sum(p.numel() for p in model.parameters()) == parameters(dims, chosen)
    source_BS, target_BT = batch()
    logits_BTV = model(source_BS, shifted(target_BT))
    assert logits_BTV.shape == (*target_BT.shape, chosen.target_vocab_size)
    assert logits_BTV.isfinite().all()


@pytest.mark.parametrize("shared", SHARED)
def test_it_computes_fairseqs_function_and_gradients(shared) -> None:
    theirs, ours = seeded(lambda: pair(shared))
    source_BS, target_BT = batch()
    real_BT = target_BT.ne(PAD)
    with quiet():
        their_logits_BTV, _ = theirs(source_BS, None, shifted(target_BT))
    logits_BTV = ours(source_BS, shifted(target_BT))
    assert (logits_BTV - their_logits_BTV)[real_BT].abs().max() < 1e-5
    assert logits_BTV[real_BT].std() > 0.5
    for x_BTV in (logits_BTV, their_logits_BTV):
        F.cross_entropy(x_BTV[real_BT], target_BT[real_BT]).backward()
    theirs_by_name = from_fairseq({n: p.grad for n, p in theirs.named_parameters()})
    ours_by_name = {n: p.grad for n, p in ours.named_parameters()}
    assert theirs_by_name.keys() >= ours_by_name.keys()
    for name, grad in ours_by_name.items():
        torch.testing.assert_close(grad, theirs_by_name[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_dropout_is_where_fairseqs_is(probability, monkeypatch) -> None:
    theirs, ours = seeded(lambda: pair("decoder", dropout=probability))
    source_BS, target_BT = batch()
    before_BTV = ours(source_BS, shifted(target_BT))
    theirs.train(), ours.train()
    # The function knows no chance, but where it is applied, and with which probability.
    monkeypatch.setattr(F, "dropout", lambda x, p, *_, **__: x + p * x.square())
    with quiet():
        their_logits_BTV, _ = theirs(source_BS, None, shifted(target_BT))
    logits_BTV = ours(source_BS, shifted(target_BT))
    real_BT = target_BT.ne(PAD)
    assert (logits_BTV - their_logits_BTV)[real_BT].abs().max() < 1e-5
    assert torch.equal(logits_BTV, before_BTV) is (probability == 0)


def test_a_foreign_model_of_fairseq_is_refused() -> None:
    for name in ("encoder.layer_norm.weight", "encoder.layers.0.self_attn.bias_k"):
        with pytest.raises(ValueError, match=f"{name} of fairseq's model has no place"):
            from_fairseq({name: torch.zeros(1)})


def test_no_token_sees_its_future() -> None:
    model = build(BASE).eval()
    source_BS, target_BT = batch()
    changed_BT = target_BT.clone()
    changed_BT[:, 4] = 3
    before, after = model(source_BS, target_BT), model(source_BS, changed_BT)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_padding_changes_nothing() -> None:
    model = seeded(lambda: build(2 * BASE, layers=2)).eval()
    source_BS, target_BT = sentences((5, 5)), shifted(sentences((6, 6), seed=1))
    expected_BTV = model(source_BS, target_BT)
    for sides in ((2, 0), (0, 3), (2, 3)):
        padded_BS = F.pad(source_BS, sides, value=PAD)
        logits_BTV = model(padded_BS, F.pad(target_BT, (0, 2), value=PAD))
        torch.testing.assert_close(logits_BTV[:, :6], expected_BTV)


@pytest.mark.parametrize("shared", SHARED)
def test_at_base_width_sp_and_mup_are_bitwise_equal(shared) -> None:
    one, other = seeded(lambda: sp(BASE, shared=shared)), seeded(lambda: build(BASE, shared=shared))
    assert same_weights(one, other)
    losses = train(one)
    assert losses == train(other)
    assert same_weights(one, other)
    assert losses[-1] < losses[0]
    assert losses != train(seeded(lambda: build(2 * BASE, shared=shared)))


def train(model: nn.Module) -> list[float]:
    optimizer = mupkit.MuAdam(model, lr=LR)
    losses = []
    for _ in range(4):
        value = loss(model)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.mark.parametrize("shared", SHARED)
def test_roles_and_rates(shared) -> None:
    model = build(4 * BASE, shared=shared)
    rates = by_name(model, mupkit.MuAdam(model, lr=1.0), "lr")
    roles = {n: s.role() for n, s in mupkit.get_infshapes(model).items()}
    for name, role in roles.items():
        if name == "readout.weight":
            assert (role, rates[name]) == ("output", 1), name
        elif name.endswith("bias") or "norm" in name or "word" in name:
            assert (role, rates[name]) == ("input", 1), name
        else:
            assert (role, rates[name]) == ("hidden", 1 / 4), name
    words = {"none": 3, "decoder": 2, "all": 1}[shared]
    assert sum("word" in name or "readout" in name for name in roles) == words
    assert model.readout.width_mult() == 4


@pytest.mark.parametrize("mup", [False, True])
@pytest.mark.parametrize("shared", SHARED)
def test_initial_std(mup, shared) -> None:
    width, words = 8 * BASE, 500
    chosen = EncoderDecoderOptions(words, words, 1, 1, shared, init_std=0.5)
    base = shape(BASE) if mup else None
    model = seeded(lambda: build_encoder_decoder(shape(width), chosen, base))
    base_width = BASE if mup else width
    assert model.embed_scale == base_width**0.5
    for name, p in model.named_parameters():
        if p.ndim == 1:
            assert (p == (1 if name.endswith("norm.weight") else 0)).all(), name
            continue
        vocabulary = "word" in name or name == "readout.weight"
        std = 0.5 / (base_width if vocabulary else p.shape[1]) ** 0.5
        assert p.std().item() == pytest.approx(std, rel=0.05), name
        assert "word" not in name or not p[PAD].any()


def test_attention_scales() -> None:
    dims, base = TransformerShape(32, 2, 8, 24, 16), TransformerShape(16, 2, 4, 6, 8)
    for chosen_base, scale in ((base, 3 * 6**-0.5 * 6 / 24), (None, 3 * 24**-0.5)):
        model = build_encoder_decoder(dims, options(attn_mult=3.0), chosen_base)
        layers = model.encoder[0].attention, model.decoder[0].attention
        for attention in (*layers, model.decoder[0].cross_attention):
            assert attention.scale == pytest.approx(scale)


@pytest.mark.parametrize("shared", SHARED)
def test_multiplier_of_the_readout(shared) -> None:
    source_BS, target_BT = batch()
    one, four = (
        seeded(lambda mult=mult: build(2 * BASE, shared=shared, output_mult=mult))
        for mult in (1.0, 4.0)
    )
    torch.testing.assert_close(4 * one(source_BS, target_BT), four(source_BS, target_BT))


def test_a_readout_of_zeros() -> None:
    source_BS, target_BT = batch()
    zero = build(2 * BASE, shared="none", zero_readout=True)
    assert not zero(source_BS, target_BT).any()


@pytest.mark.parametrize("shared", SHARED)
def test_steps_compute_what_the_whole_does(shared) -> None:
    """With two hypotheses a sentence, of which some are dropped and some doubled on the way."""
    model = seeded(lambda: build(2 * BASE, shared=shared, layers=2)).eval()
    source_BS, tokens_YT = batch()[0], shifted(sentences([7] * 8, seed=3))
    cache = model.start(source_BS, hypotheses=2)
    for t in range(7):
        if t == 3:  # the second sentence ends, hypotheses of the others change places
            sentences_B, hypotheses_Y = torch.tensor([0, 2, 3]), torch.tensor([1, 0, 4, 4, 7, 6])
            cache.keep(sentences_B, hypotheses_Y)
            source_BS, tokens_YT = source_BS[sentences_B], tokens_YT[hypotheses_Y]
        logits_BNV = model.step(tokens_YT[:, t].view(-1, 2), cache)
        whole_YTV = model(source_BS.repeat_interleave(2, 0), tokens_YT[:, : t + 1])
        torch.testing.assert_close(logits_BNV.flatten(0, 1), whole_YTV[:, -1])


def test_impossible_options_and_sentences_are_refused() -> None:
    with pytest.raises(ValueError, match="zero_readout would zero the embedding"):
        options("decoder", zero_readout=True)
    with pytest.raises(ValueError, match="one vocabulary, but have 5 and 6 ids"):
        EncoderDecoderOptions(5, 6, 1, 1, "all")
    long_BS = torch.full((1, MAX_LENGTH + 1), EOS)
    model = build(BASE)
    with pytest.raises(ValueError, match="has 1025 tokens, at most 1024"):
        model(long_BS, long_BS[:, :3])
    assert model(long_BS[:, 1:], long_BS[:, :3]).shape == (1, 3, WORDS)


# For coordinate checks: with wide keys, and queries that start at zero, less of the attention
# logits is chance, which shrinks with width (Tensor Programs V, Appendices D.2 and D.4).
def wide_keys(width: int) -> TransformerShape:
    return TransformerShape(width, n_head=1, d_head=width // 2, d_k=width, d_ffn=width)


def quiet_model(width: int, shared: str = "decoder", mup: bool = True) -> EncoderDecoder:
    base = wide_keys(BASE) if mup else None
    model = build_encoder_decoder(wide_keys(width), options(shared), base)
    for name, p in model.named_parameters():
        if name.endswith("query.weight"):
            nn.init.zeros_(p)
    return model


check = partial(coord_check, make_optimizer=lambda model: mupkit.MuAdam(model, lr=LR), loss=loss)


@pytest.mark.parametrize("shared", SHARED)
def test_nothing_depends_on_width_in_mup(shared) -> None:
    report = check(partial(quiet_model, shared=shared), WIDTHS)
    assert report.passed, report
    judged = {(v.fit.kind, v.fit.tensor): v.judgement for v in report.verdicts}
    for layer in ("encoder.0.attention", "decoder.0.attention", "decoder.0.cross_attention"):
        assert judged["change", f"{layer}.softmax"] == "ok"


def square_root(width: int) -> EncoderDecoder:
    model = quiet_model(width)
    model.decoder[0].cross_attention.scale = mupkit.attention_scale(width)
    return model


def plain_readout(width: int) -> EncoderDecoder:
    model = quiet_model(width)
    model.readout.set_width_mult(1.0)
    return model


def growing_embedding(width: int) -> EncoderDecoder:
    model = quiet_model(width)
    model.embed_scale = width**0.5
    return model


CROSS = "decoder.0.cross_attention.softmax"
MISTAKES = {
    "SP": (
        *(partial(quiet_model, mup=False), FEW),
        {("change", "encoder.0.attention.softmax"): 1.5, ("change", "readout"): 0.5},
    ),
    "1/sqrt(d) cross-attention": (square_root, WIDTHS, {("change", CROSS): 0.5}),
    "readout without multiplier": (plain_readout, FEW, {("change", "readout"): 1}),
    "embedding times sqrt(width)": (growing_embedding, FEW, {("activation", "dropout"): 0.5}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are(mistake) -> None:
    wrong, widths, expected = MISTAKES[mistake]
    report = check(wrong, widths)
    found = failures(report)
    for place, exponent in expected.items():
        assert found.get(place) == pytest.approx(exponent, abs=0.3), report
    assert wrong is not square_root or set(found) == set(expected)
