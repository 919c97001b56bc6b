"""Random changes of images: drawn as a few numbers, applied later to a whole batch at once.

A resumed run skips batches it has seen, and then draws and does not apply.

Axes: B batch, C channels, H height, W width, S side of a square image.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.data.held import sent


@dataclass(frozen=True)
class CropFlip:
    """What is done to each image of a batch.

    Attributes:
        pad: reflected pixels on each side before the crop.
        corner: (B, 2) of the crop in the padded image.
        flip: (B,) whether it is mirrored.
        cutout: side of the square that is set to the mean; 0 for none.
        hole: (B, 2) corner of that square.
    """

    pad: int
    corner: Tensor
    flip: Tensor
    cutout: int
    hole: Tensor


def draw_crop_flip(
    generator: torch.Generator, batch: int, size: int, pad: int, cutout: int = 0
) -> CropFlip:
    """Draw crops of the images' own size, mirrorings and holes for a batch of square images."""
    corner = torch.randint(2 * pad + 1, (batch, 2), generator=generator)
    flip = torch.randint(2, (batch,), generator=generator).bool()
    hole = torch.randint(size - cutout + 1, (batch, 2), generator=generator)
    return CropFlip(pad, corner, flip, cutout, hole)


def apply(images: Tensor, changes: CropFlip, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (B, C, S, S) of bytes, changed and normalized, with channels last in memory.

    Source: the augmentation of github.com/davidcpage/cifar10-fast: reflected padding of 4, random
    crop, mirroring, a hole of 8 x 8.
    """
    size, pad = images.shape[-1], changes.pad
    device = images.device
    corner, flip = sent(changes.corner, device), sent(changes.flip, device)
    offsets = torch.arange(size, device=device)
    rows_BS = _reflected(corner[:, :1] + offsets - pad, size)
    mirrored_BS = torch.where(flip[:, None], offsets.flip(0), offsets)
    columns_BS = _reflected(corner[:, 1:] + mirrored_BS - pad, size)
    # Moving bytes costs a quarter of moving float32, and no padded copy is made.
    pixels_BP = (rows_BS[:, :, None] * size + columns_BS[:, None]).flatten(1)
    bytes_BCP = images.flatten(2)
    index_BCP = pixels_BP[:, None].expand(-1, images.shape[1], -1)
    x_BCSS = normalize(bytes_BCP.gather(2, index_BCP).view_as(images), mean, std)
    if changes.cutout:
        hole = sent(changes.hole, device)
        inside = [
            (offsets >= hole[:, i, None]) & (offsets < hole[:, i, None] + changes.cutout)
            for i in (0, 1)
        ]
        x_BCSS.masked_fill_((inside[0][:, :, None] & inside[1][:, None])[:, None], 0.0)
    return x_BCSS


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Images (B, C, H, W) of bytes with mean 0 and std 1 per channel, channels last in memory."""
    shift, scale = (_of_channels(tuple(v), images.device) for v in (mean, std))
    x_BCHW = images.to(torch.float32, memory_format=torch.channels_last)
    return x_BCHW.div_(255).sub_(shift).div_(scale)


@functools.cache
def _of_channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Values (C, 1, 1), made once: to make them on a GPU means to wait for it."""
    return torch.tensor(values, device=device)[:, None, None]


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places with those outside 0 to `size` - 1 mirrored at the edge pixel."""
    return size - 1 - (size - 1 - places.abs()).abs()
