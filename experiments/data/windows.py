"""Batches of windows of a long text."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from experiments.data.held import sent
from experiments.errors import UserError


def window_batches(
    tokens: Tensor,
    length: int,
    batch_size: int,
    seed: int,
    more: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[Tensor]:
    """Non-overlapping windows in an order that the seed alone decides, a new one each epoch.

    So all widths and rates of a seed see the same data.

    Args:
        tokens: ids (T,), on any device.
        length: of a window.
        batch_size: windows of a batch; an epoch's rest of fewer is left out.
        more: tokens of the next window that a window is longer by: 1 for the next token's
            prediction.
        device: of the batches.

    Returns:
        Batches (B, length + more), int64, without end.

    Raises:
        UserError: the text is shorter than a batch; see `count_windows`.
    """
    windows = count_windows(tokens, length, batch_size, more)
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(length + more, device=tokens.device)
    while True:
        order = sent(torch.randperm(windows, generator=generator), tokens.device)
        for start in range(0, windows - batch_size + 1, batch_size):
            index = order[start : start + batch_size, None] * length + offsets
            yield sent(tokens[index].long(), device)


def count_windows(tokens: Tensor, length: int, batch_size: int, more: int = 0) -> int:
    """Windows of a text (T,) that are at least one batch; arguments as of `window_batches`.

    Raises:
        UserError: there are fewer.
    """
    windows = max(0, len(tokens) - more) // length
    if not windows:
        raise UserError(
            f"seq_len: windows of {length} tokens are longer than the text, which has "
            f"{len(tokens)}; give a smaller one"
        )
    if windows < batch_size:
        raise UserError(
            f"batch_size: {batch_size} is more than the text's windows of {length} tokens; give "
            f"{windows} or less"
        )
    return windows
