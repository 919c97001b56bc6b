"""Beam search: against all translations there are, without a cache, greedy, and fairseq's."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from experiments.models.beam_search import Hypothesis, beam_search, translate
from experiments.models.encoder_decoder import (
    EOS,
    MAX_LENGTH,
    PAD,
    EncoderDecoder,
    EncoderDecoderOptions,
    build_encoder_decoder,
)
from tests.experiments.models.fairseq_models import generate, pair
from tests.experiments.models.fairseq_names import from_fairseq
from tests.experiments.models.images import seeded
from tests.experiments.models.sentences import SHARED, build, raise_end, sentences, shape

LENGTHS = (6, 3, 5, 6, 2, 4, 4, 6, 5, 1)
LONGEST = int(1.2 * 6 + 10)


def model_that_ends(by: float = -0.5) -> EncoderDecoder:
    """A model whose translations have various lengths."""
    model = seeded(lambda: build(16, layers=2, shared="none")).eval()
    raise_end(model.decoder[-1].feed_forward_norm, model.readout, by)
    return model


def logp(model: EncoderDecoder, source_S: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities (V,) of what follows some tokens, without a cache."""
    with torch.no_grad():
        logits_BTV = model(source_S[None], torch.tensor([[EOS, *tokens]]))
    return logits_BTV[0, -1].log_softmax(-1)


def plain_search(
    model: EncoderDecoder, source_S: torch.Tensor, beam: int, penalty: float, longest: int
) -> list[Hypothesis]:
    """The same search for one sentence, in plain Python and without a cache."""
    going: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[Hypothesis] = []
    for step in range(longest + 1):
        found = []
        for tokens, score in going:
            for token, value in enumerate(logp(model, source_S, tokens).tolist()):
                ends = token == EOS
                if token != PAD and not (ends and step == 0) and (ends or step < longest):
                    found.append(([*tokens, token], score + value))
        found.sort(key=lambda x: -x[1])
        for tokens, score in found[:beam]:
            if tokens[-1] == EOS and len(finished) < beam:
                finished.append(Hypothesis(tokens[:-1], score / (step + 1) ** penalty))
        if len(finished) == beam:
            break
        going = [(tokens, score) for tokens, score in found if tokens[-1] != EOS][:beam]
    return sorted(finished, key=lambda h: -h.score)


def assert_equal(found: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert [h.score for h in found] == pytest.approx([h.score for h in expected], abs=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_all_translations(penalty) -> None:
    words, longest = 6, 3
    chosen = EncoderDecoderOptions(words, words, 1, 1, "none", init_std=2.0)
    model = seeded(lambda: build_encoder_decoder(shape(16), chosen, None)).eval()
    source_BS = torch.tensor([[4, 5, 4, EOS], [PAD, 5, 5, EOS]])
    others = [token for token in range(words) if token not in (PAD, EOS)]
    found = beam_search(model, source_BS, 100, penalty, (0.0, longest))
    for source_S, hypotheses in zip(source_BS, found, strict=True):
        expected = []
        for length in range(1, longest + 1):
            for tokens in itertools.product(others, repeat=length):
                whole = [*tokens, EOS]
                steps = [logp(model, source_S, whole[:i])[t].item() for i, t in enumerate(whole)]
                expected.append(Hypothesis(whole[:-1], sum(steps) / len(whole) ** penalty))
        assert_equal(hypotheses, sorted(expected, key=lambda h: -h.score))


@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (2, 0.5), (5, 1.0)])
def test_it_finds_what_a_search_without_a_cache_finds(beam, penalty) -> None:
    model = model_that_ends()
    source_BS = sentences(LENGTHS, left=True)
    found = beam_search(model, source_BS, beam, penalty)
    for source_S, hypotheses in zip(source_BS, found, strict=True):
        assert_equal(hypotheses, plain_search(model, source_S, beam, penalty, LONGEST))
    assert lengths(found) > 3
    assert translate(model, source_BS, beam, penalty) == [h[0].tokens for h in found]


def lengths(found: list[list[Hypothesis]]) -> int:
    """How many lengths there are among the translations."""
    return len({len(h.tokens) for hypotheses in found for h in hypotheses})


def test_one_hypothesis_is_greedy() -> None:
    model = model_that_ends()
    source_BS = sentences(LENGTHS)
    for source_S, tokens in zip(source_BS, translate(model, source_BS, beam=1), strict=True):
        greedy: list[int] = []
        while len(greedy) < LONGEST:
            logp_V = logp(model, source_S, greedy)
            logp_V[[PAD] if greedy else [PAD, EOS]] = -math.inf
            if (best := int(logp_V.argmax())) == EOS:
                break
            greedy.append(best)
        assert tokens == greedy


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(("beam", "penalty"), [(1, 1.0), (3, 2.0), (5, 0.6)])
def test_it_finds_what_fairseq_finds(shared, beam, penalty) -> None:
    theirs, ours = seeded(lambda: pair(shared))
    raise_end(theirs.decoder.layers[-1].final_layer_norm, theirs.decoder.output_projection, 2.0)
    ours.load_state_dict(from_fairseq(theirs.state_dict()))
    source_BS = sentences(LENGTHS, left=True)
    found = beam_search(ours, source_BS, beam, penalty)
    for hypotheses, expected in zip(found, generate(theirs, source_BS, beam, penalty), strict=True):
        assert_equal(hypotheses, [Hypothesis(*h) for h in expected])
    assert lengths(found) > 2 or beam == 1


def test_nothing_is_longer_than_allowed_or_than_the_model_reads() -> None:
    model = model_that_ends(by=-20.0)
    source_BS = sentences((5, 5))
    for a, b, longest in ((0.5, 4, 6), (0.0, 5000, MAX_LENGTH - 1)):
        found = translate(model, source_BS, 1, max_length=(a, b))
        assert [len(tokens) for tokens in found] == [longest, longest]


def test_a_model_of_nan_translates_nothing() -> None:
    model = model_that_ends()
    torch.nn.init.constant_(model.readout.weight, math.nan)
    assert translate(model, sentences(LENGTHS), 2) == [[]] * len(LENGTHS)
