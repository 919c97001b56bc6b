"""How a configuration becomes a model, batches and a loss."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.data.pretraining import load_text
from experiments.data.windows import window_batches
from experiments.families.gpt_proxy.config import GptConfig
from experiments.models.relative_transformer import (
    RelativeOptions,
    RelativeTransformer,
    build_relative,
)
from experiments.models.transformer import TransformerShape

VALIDATED = 32_768  # tokens of the validation split, at most, of which the loss is taken


class Pretraining:
    """Next-token prediction on windows of the training split.

    Args:
        config: of the run.

    Batches are (B, L + 1) token numbers.
    """

    def __init__(self, config: GptConfig):
        self.config = config
        text = load_text(config.data, config.vocab_size, "bpe")
        self.fingerprint = text.fingerprint
        self.tokens = {
            split: torch.from_numpy(text.tokens[split].copy()) for split in ("train", "validation")
        }

    def build(self) -> nn.Module:
        return build(self.config)

    def batches(self, device: str) -> Iterator[Tensor]:
        config, tokens = self.config, self.tokens["train"].to(device)
        return window_batches(tokens, config.seq_len, config.batch_size, config.seed, more=1)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        logits_BLV = model(batch[:, :-1])
        return F.cross_entropy(logits_BLV.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean loss on the first windows of the validation split, in nats a token."""
        length, size = self.config.seq_len, self.config.batch_size
        tokens = self.tokens["validation"].long()
        count = min(len(tokens) - 1, VALIDATED) // length
        windows = torch.arange(count)[:, None] * length + torch.arange(length + 1)
        device = next(model.parameters()).device
        losses = [
            self.loss(model, tokens[index].to(device)).item() * len(index)
            for index in torch.split(windows, size)
        ]
        return {"valid_loss": sum(losses) / count}


def build(config: GptConfig) -> RelativeTransformer:
    """The model of a configuration, on torch's default device."""
    names = RelativeOptions.__dataclass_fields__
    options = RelativeOptions(**{n: getattr(config, n) for n in names})
    mup = config.parametrization == "mup"
    base = TransformerShape(**config.dims(base=True)) if mup else None
    return build_relative(TransformerShape(**config.dims()), options, base)
