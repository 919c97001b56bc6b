"""Random changes of images against a slow reference that does one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.data.augment import CropFlip, apply, draw_crop_flip, normalize

MEAN, STD = (0.5, 0.25, 0.125), (0.2, 0.3, 0.4)


def images(count: int = 16, channels: int = 3, size: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (count, channels, size, size)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def draw(count: int, size: int = 12, pad: int = 4, cutout: int = 0, seed: int = 0) -> CropFlip:
    return draw_crop_flip(torch.Generator().manual_seed(seed), count, size, pad, cutout)


def slowly(images_BCSS: Tensor, changes: CropFlip) -> Tensor:
    """Normalize, pad, crop, mirror and cut out, in this order, as cifar10-fast does."""
    done = []
    for i, image in enumerate(images_BCSS.numpy()):
        channels, size, _ = image.shape
        mean, std = (np.array(v[:channels], np.float64)[:, None, None] for v in (MEAN, STD))
        x = (image / 255 - mean) / std
        x = np.pad(x, [(0, 0), (changes.pad,) * 2, (changes.pad,) * 2], mode="reflect")
        row, column = changes.corner[i].tolist()
        x = x[:, row : row + size, column : column + size]
        if changes.flip[i]:
            x = x[..., ::-1].copy()
        if changes.cutout:
            row, column = changes.hole[i].tolist()
            x[:, row : row + changes.cutout, column : column + changes.cutout] = 0
        done.append(x.astype(np.float32))
    return torch.tensor(np.stack(done))


@pytest.mark.parametrize("cutout", [0, 5])
@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_equals_the_slow_reference(channels: int, pad: int, cutout: int) -> None:
    batch = images(channels=channels)
    changes = draw(len(batch), pad=pad, cutout=cutout)
    fast = apply(batch, changes, MEAN[:channels], STD[:channels])
    torch.testing.assert_close(fast, slowly(batch, changes), rtol=1e-5, atol=1e-6)
    assert fast.dtype == torch.float32
    assert fast.is_contiguous(memory_format=torch.channels_last)


def test_leaves_the_images_as_they_were() -> None:
    batch = images()
    before = batch.clone()
    apply(batch, draw(len(batch), cutout=3), MEAN, STD)
    normalize(batch, MEAN, STD)
    assert torch.equal(batch, before)


def test_normalize_is_the_change_that_changes_nothing() -> None:
    batch = images()
    middle = torch.full((len(batch), 2), 4)
    nothing = CropFlip(4, middle, torch.zeros(len(batch), dtype=torch.bool), 0, middle)
    expected = normalize(batch, MEAN, STD)
    assert torch.equal(apply(batch, nothing, MEAN, STD), expected)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    torch.testing.assert_close(expected * std + mean, batch / 255)


def test_draws_are_the_same_whether_applied_or_skipped() -> None:
    skipping, applying = (torch.Generator().manual_seed(3) for _ in range(2))
    batch = images()
    for _ in range(3):
        draw_crop_flip(skipping, len(batch), 12, 4, 5)
        apply(batch, draw_crop_flip(applying, len(batch), 12, 4, 5), MEAN, STD)
    assert torch.equal(skipping.get_state(), applying.get_state())


def test_cutout_does_not_move_the_other_draws() -> None:
    with_hole, without = (torch.Generator().manual_seed(0) for _ in range(2))
    for _ in range(3):
        one = draw_crop_flip(with_hole, 64, 12, 4, 5)
        other = draw_crop_flip(without, 64, 12, 4, 0)
        assert torch.equal(one.corner, other.corner) and torch.equal(one.flip, other.flip)


def test_draws_reach_every_place_equally_often() -> None:
    count = 60_000
    changes = draw(count, size=12, pad=2, cutout=9)
    for places, options in ((changes.corner, 5), (changes.hole, 4)):
        both = places[:, 0] * options + places[:, 1]
        shares = torch.bincount(both, minlength=options**2) / count
        assert len(shares) == options**2
        assert (shares * options**2 - 1).abs().max() < 0.1  # 4.8 standard deviations
    assert abs(changes.flip.float().mean() - 0.5) < 0.01


def test_images_of_a_batch_are_changed_differently() -> None:
    batch = images(1).expand(64, -1, -1, -1)
    changed = apply(batch, draw(64), MEAN, STD)
    assert len({x.numpy().tobytes() for x in changed}) > 30
