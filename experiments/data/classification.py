"""Batches of images for training, and accuracy on those that are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from experiments.data.held import sent
from experiments.errors import UserError

EVALUATED = 500  # images at once


def subset(labels: Tensor, count: int | None, batch_size: int) -> int:
    """How many images to train on: `count`, or all N images.

    Args:
        labels: (N,) of all images.
        count: of the first images; None for all.
        batch_size: images of a batch.

    Raises:
        UserError: if there are fewer, or fewer than a batch.
    """
    if count is not None and count > len(labels):
        raise UserError(f"images: {count} are more than there are; give {len(labels)} or less")
    found = len(labels) if count is None else count
    if found < batch_size:
        raise UserError(
            f"batch_size: {batch_size} is more than there are images; give {found} or less"
        )
    return found


def index_batches(
    count: int, batch_size: int, seed: int, device: str | torch.device = "cpu"
) -> Iterator[Tensor]:
    """Endless batches of indices (B,) of images; each epoch has a new order and no partial batch.

    Args:
        count: of images, at least a batch (`subset`).
        batch_size: images of a batch.
        seed: decides the order.
        device: of the indices.
    """
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = sent(torch.randperm(count, generator=generator), device)
        yield from torch.split(order, batch_size)[: count // batch_size]


def accuracy(
    forward: Callable[[slice], Tensor],
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    """Accuracy (0 to 1) and mean loss on all held-out images.

    Args:
        forward: from a slice of the images to outputs (B, K).
        labels: (N,) of all of them.
        loss: mean loss of outputs (B, K) and labels (B,).
    """
    correct, total = 0, 0.0
    for start in range(0, len(labels), EVALUATED):
        part = slice(start, min(start + EVALUATED, len(labels)))
        outputs_BK, labels_B = forward(part), labels[part]
        correct += int((outputs_BK.argmax(1).cpu() == labels_B).sum())
        total += loss(outputs_BK, labels_B).item() * len(labels_B)
    return {"valid_accuracy": correct / len(labels), "valid_loss": total / len(labels)}
