"""Translation by beam search, with fairseq's rules for scores and for when to stop.

Axes: B sentences that go on, S source length, N beam, T tokens so far, C candidates, E those that
end, V vocabulary, Y hypotheses of all sentences.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.models.encoder_decoder import EOS, MAX_LENGTH, PAD, EncoderDecoder


@dataclass(frozen=True)
class Hypothesis:
    """A finished translation.

    Args:
        tokens: without </s>.
        score: log-probability, </s> included, over (number of tokens with </s>)**length_penalty.
    """

    tokens: list[int]
    score: float


def translate(
    model: EncoderDecoder,
    source_BS: Tensor,
    beam: int = 5,
    length_penalty: float = 1.0,
    max_length: tuple[float, int] = (1.2, 10),
) -> list[list[int]]:
    """The best translation of each sentence, empty where the model gives NaN.

    The arguments are those of `beam_search`.
    """
    found = beam_search(model, source_BS, beam, length_penalty, max_length)
    return [hypotheses[0].tokens if hypotheses else [] for hypotheses in found]


@torch.no_grad()
def beam_search(
    model: EncoderDecoder,
    source_BS: Tensor,
    beam: int = 5,
    length_penalty: float = 1.0,
    max_length: tuple[float, int] = (1.2, 10),
) -> list[list[Hypothesis]]:
    """The translations of each sentence that were finished, at most `beam`, the best first.

    Each step takes the 2 * beam best continuations of a sentence's hypotheses. Those among the
    first `beam` that end are finished, and the best `beam` that do not end go on. A sentence stops
    once `beam` of its hypotheses are finished, or at the longest length, where all have to end. No
    translation is empty.

    Args:
        model: in evaluation mode.
        source_BS: token numbers that end in </s>, padded on either side.
        beam: hypotheses of each sentence.
        length_penalty: above 1 it favours long translations, below 1 short ones.
        max_length: a and b; no translation has more than a * S + b tokens, nor more than the model
            can read.

    Source: fairseq 0.12, `SequenceGenerator`; beam and lengths of its recipe for IWSLT14.
    """
    sentences = len(source_BS)
    longest = min(int(max_length[0] * source_BS.shape[1] + max_length[1]), MAX_LENGTH - 1)
    finished: list[list[Hypothesis]] = [[] for _ in range(sentences)]
    unfinished = list(range(sentences))
    cache = model.start(source_BS, beam)
    tokens_BNT = source_BS.new_full((sentences, beam, 1), EOS)
    # All hypotheses are equal at first, so that only one may have continuations.
    scores_BN = torch.full((sentences, beam), -math.inf, device=source_BS.device)
    scores_BN[:, 0] = 0
    for step in range(longest + 1):
        logits_BNV = model.step(tokens_BNT[:, :, -1], cache)
        scores_BNV = _allowed(logits_BNV.log_softmax(-1), step, longest)
        scores_BNV += scores_BN.unsqueeze(-1)
        scores_BC, index_BC = scores_BNV.flatten(1).topk(2 * beam)
        from_BC, next_BC = index_BC // logits_BNV.shape[-1], index_BC % logits_BNV.shape[-1]
        ends_BC = next_BC.eq(EOS) & scores_BC.gt(-math.inf)

        rows, candidates = ends_BC[:, :beam].nonzero(as_tuple=True)
        ended_ET = tokens_BNT[rows, from_BC[rows, candidates], 1:]
        score_E = scores_BC[rows, candidates] / (step + 1) ** length_penalty
        for row, tokens, score in zip(
            rows.tolist(), ended_ET.tolist(), score_E.tolist(), strict=True
        ):
            if len(finished[unfinished[row]]) < beam:
                finished[unfinished[row]].append(Hypothesis(tokens, score))
        kept = [row for row, i in enumerate(unfinished) if len(finished[i]) < beam]
        if step == longest or not kept:
            break

        unfinished = [unfinished[row] for row in kept]
        kept_B = torch.tensor(kept, device=source_BS.device)
        # The best that go on, in their order.
        going_BN = ends_BC[kept_B].to(torch.uint8).argsort(dim=1, stable=True)[:, :beam]
        scores_BN, next_BN, from_BN = (
            x_BC[kept_B].gather(1, going_BN) for x_BC in (scores_BC, next_BC, from_BC)
        )
        hypotheses_Y = (kept_B.unsqueeze(1) * beam + from_BN).flatten()
        tokens_BNT = torch.cat(
            (tokens_BNT.flatten(0, 1)[hypotheses_Y], next_BN.view(-1, 1)), 1
        ).view(*next_BN.shape, -1)
        cache.keep(kept_B, hypotheses_Y)
    return [sorted(found, key=lambda h: h.score, reverse=True) for found in finished]


def _allowed(logp_BNV: Tensor, step: int, longest: int) -> Tensor:
    """Log-probabilities in place, -inf of what may not come at this step."""
    if step == longest:
        end_BN = logp_BNV[:, :, EOS].clone()
        logp_BNV.fill_(-math.inf)[:, :, EOS] = end_BN
        return logp_BNV
    logp_BNV[:, :, PAD] = -math.inf
    if step == 0:
        logp_BNV[:, :, EOS] = -math.inf
    return logp_BNV
