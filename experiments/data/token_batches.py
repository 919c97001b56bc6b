"""Batches of sentence pairs by their number of tokens, as fairseq makes them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.errors import UserError


def token_batches(
    source_lengths: NDArray[np.int64],
    target_lengths: NDArray[np.int64],
    max_tokens: int,
    seed: int,
) -> Iterator[Tensor]:
    """Endless batches of indices (B,) of pairs; each epoch has the same batches in a new order.

    Pairs of like length share a batch: they are sorted by source and then target length, in random
    order among equals, and cut into batches as large as fit.

    Args:
        source_lengths, target_lengths: (N,) tokens of each pair's sides.
        max_tokens: of the larger side of a batch, padding included.
        seed: decides all that is random.

    Raises:
        UserError: a sentence is longer than `max_tokens`.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(source_lengths), generator=generator).numpy()
    order = order[np.lexsort((target_lengths[order], source_lengths[order]))]
    sizes = _sizes(np.maximum(source_lengths, target_lengths)[order], max_tokens)
    batches = torch.split(torch.from_numpy(order), sizes)
    while True:
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]


def epoch_batches(
    source_lengths: NDArray[np.int64], target_lengths: NDArray[np.int64], max_tokens: int
) -> int:
    """Batches of an epoch of `token_batches`: the same for every seed."""
    order = np.lexsort((target_lengths, source_lengths))
    return len(_sizes(np.maximum(source_lengths, target_lengths)[order], max_tokens))


def _sizes(lengths: NDArray[np.int64], max_tokens: int) -> list[int]:
    """Pairs of each batch.

    Args:
        lengths: (N,) of each pair's longer side, in order.
    """
    if lengths.max() > max_tokens:
        raise UserError(
            f"batch_size: {max_tokens} tokens are too few for the longest sentence; "
            f"give {lengths.max()} or more"
        )
    sizes, rows, longest = [], 0, 0
    for length in lengths.tolist():
        longest = max(longest, length)
        if (rows + 1) * longest > max_tokens:
            sizes.append(rows)
            rows, longest = 0, length
        rows += 1
    return [*sizes, rows]
