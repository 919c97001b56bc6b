"""Small encoder-decoder Transformers and random sentences for their tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from experiments.models.encoder_decoder import (
    EOS,
    PAD,
    EncoderDecoder,
    EncoderDecoderOptions,
    build_encoder_decoder,
)
from experiments.models.transformer import TransformerShape

BASE = 16
WORDS = 11  # ids of either language
SHARED = ("none", "decoder", "all")


def shape(width: int) -> TransformerShape:
    """A shape of which everything but the number of heads is in proportion to the width."""
    return TransformerShape(width, n_head=2, d_head=width // 2, d_k=width // 2, d_ffn=width)


def options(shared: str = "decoder", layers: int = 1, **changes: object) -> EncoderDecoderOptions:
    """Options for `WORDS` ids."""
    return EncoderDecoderOptions(WORDS, WORDS, layers, layers, shared, **changes)


def build(width: int, **changes: object) -> EncoderDecoder:
    """A model in µP."""
    return build_encoder_decoder(shape(width), options(**changes), shape(BASE))


def sp(width: int, **changes: object) -> EncoderDecoder:
    """A model in SP."""
    return build_encoder_decoder(shape(width), options(**changes), None)


def sentences(lengths: Sequence[int], left: bool = False, seed: int = 0) -> Tensor:
    """Random sentences (B, L) of some lengths, with </s> at the end, padded."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(EOS + 2, WORDS, (n,), generator=generator) for n in lengths]
    for tokens in drawn:
        tokens[-1] = EOS
    return pad_sequence(drawn, True, PAD, padding_side="left" if left else "right")


def shifted(target_BT: Tensor) -> Tensor:
    """What the decoder reads: </s>, and then the target without its last token."""
    return torch.cat((torch.full_like(target_BT[:, :1], EOS), target_BT[:, :-1]), 1)


def raise_end(norm: nn.LayerNorm, readout: nn.Linear, by: float) -> None:
    """Raise the logits of </s>, through the bias of the last normalization."""
    with torch.no_grad():
        end_D = readout.weight[EOS]
        norm.bias += by * end_D / end_D.square().sum()


def batch() -> tuple[Tensor, Tensor]:
    """Sources padded on the left and targets padded on the right, as fairseq's."""
    return sentences((6, 4, 6, 6), left=True), sentences((7, 7, 5, 7), seed=1)


def loss(model: nn.Module) -> Tensor:
    """Cross-entropy on the batch."""
    source_BS, target_BT = batch()
    logits_BTV = model(source_BS, shifted(target_BT))
    return F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten(), ignore_index=PAD)
