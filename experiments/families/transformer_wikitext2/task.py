"""How a configuration becomes a model, batches and a loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from experiments.data.held import held
from experiments.data.text import load_corpus
from experiments.data.windows import count_windows, window_batches
from experiments.families.transformer_wikitext2.config import TransformerConfig
from experiments.models.next_token import NextToken
from experiments.models.transformer import (
    Transformer,
    TransformerOptions,
    TransformerShape,
    build_transformer,
)
from experiments.train.parts import Part


class LanguageModeling(NextToken):
    """Next-word prediction on windows of the training split.

    Args:
        config: of the run.

    Batches are (B, L + 1) token numbers.
    """

    def __init__(self, config: TransformerConfig):
        self.config = config
        corpus = load_corpus(config.data, config.vocab_size)
        self.fingerprint = corpus.fingerprint
        self.tokens = torch.from_numpy(corpus.tokens["train"].copy())
        count_windows(self.tokens, config.seq_len, config.batch_size, more=1)

    def build(self) -> nn.Module:
        return build(self.config)

    def batches(self, device: str) -> Iterator[Tensor]:
        config = self.config
        tokens = held(self.tokens, f"{self.fingerprint} {config.vocab_size} train", device)
        return window_batches(tokens, config.seq_len, config.batch_size, config.seed, 1, device)

    def part(self, model: nn.Module, batch: Tensor, part: Part) -> Tensor:
        return self.loss(model, part.rows(batch)) * (len(part.rows(batch)) / len(batch))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}


def build(config: TransformerConfig) -> Transformer:
    """The model of a configuration, on torch's default device."""
    names = TransformerOptions.__dataclass_fields__
    options = TransformerOptions(**{n: getattr(config, n) for n in names})
    mup = config.parametrization == "mup"
    base = TransformerShape(**config.dims(base=True)) if mup else None
    return build_transformer(TransformerShape(**config.dims()), options, base)
