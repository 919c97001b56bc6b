"""The loss of a language model that predicts the next token.

Axes: B batch, L sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from experiments.models.cross_entropy import cross_entropy


class NextToken:
    """What tasks have in common whose batches are (B, L + 1) token numbers."""

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """The mean cross-entropy of the next tokens, in nats."""
        return self.objective(model, *self.inputs(batch, batch.device))

    def inputs(self, batch: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """What is read and what is predicted, (B, L)."""
        return batch[:, :-1], batch[:, 1:]

    def objective(self, model: Callable[[Tensor], Tensor], *inputs: Tensor) -> Tensor:
        """The loss of `inputs`."""
        read_BL, wanted_BL = inputs
        logits_BLV = model(read_BL)
        return cross_entropy(logits_BLV.flatten(0, 1), wanted_BL.flatten())
