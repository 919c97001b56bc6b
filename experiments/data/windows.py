"""Batches of windows of a long text."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def window_batches(
    tokens: Tensor, length: int, batch_size: int, seed: int, more: int = 0
) -> Iterator[Tensor]:
    """Non-overlapping windows in an order that the seed alone decides, a new one each epoch.

    So all widths and rates of a seed see the same data.

    Args:
        tokens: ids (T,), on the device of the batches.
        length: of a window.
        batch_size: windows of a batch; an epoch's rest of fewer is left out.
        more: tokens of the next window that a window is longer by: 1 for the next token's
            prediction.

    Returns:
        Batches (B, length + more), int64, without end.

    Raises:
        ValueError: the text is shorter than a batch.
    """
    windows = (len(tokens) - more) // length
    if windows < batch_size:
        raise ValueError(f"{len(tokens)} tokens are fewer than one batch of {batch_size}")
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(length + more)
    while True:
        order = torch.randperm(windows, generator=generator)
        for start in range(0, windows - batch_size + 1, batch_size):
            index = order[start : start + batch_size, None] * length + offsets
            yield tokens[index.to(tokens.device)].long()
