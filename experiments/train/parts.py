"""Parts of a batch, which processes compute beside each other, or one process one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Part:
    """One of several parts of a batch.

    Attributes:
        index: its number, from 0.
        parts: of the batch.
    """

    index: int
    parts: int

    def rows(self, whole: Tensor) -> Tensor:
        """Its rows of a tensor (B, ...); sizes differ by one at most, and may be 0."""
        return whole.tensor_split(self.parts)[self.index]


@runtime_checkable
class Divisible(Protocol):
    """What a task has whose batches can be computed in parts."""

    def part(self, model: nn.Module, batch: Any, part: Part) -> Tensor:
        """A part's share of the batch's loss: those of all parts sum up to the task's `loss`.

        Where parts have unequal counts, such as tokens, their means are weighted by them.
        """
