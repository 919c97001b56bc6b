"""Windows of a long text: order by seed alone, each window once an epoch."""

import itertools

import pytest
import torch

from experiments.data.windows import count_windows, window_batches
from experiments.errors import UserError

TOKENS = torch.arange(100, dtype=torch.int32)


def epoch(seed, more=1):
    batches = window_batches(TOKENS, 8, 4, seed, more)
    return torch.cat(list(itertools.islice(batches, 3)))


def test_every_window_comes_once_an_epoch_and_overlaps_by_the_next_token() -> None:
    rows = epoch(0)
    assert rows.shape == (12, 9)
    assert rows.dtype == torch.int64
    assert sorted(rows[:, 0].tolist()) == list(range(0, 96, 8))
    assert (rows.diff() == 1).all()
    assert epoch(0, more=0).shape == (12, 8)


def test_the_order_depends_on_the_seed_and_the_epoch() -> None:
    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))
    batches = window_batches(TOKENS, 8, 4, 0)
    first, second = (torch.cat(list(itertools.islice(batches, 3))) for _ in range(2))
    assert not torch.equal(first, second)


def test_too_short_a_text_is_refused() -> None:
    with pytest.raises(UserError, match=r"batch_size: 4 is more than .* of 8 .*give 2 or less"):
        next(window_batches(TOKENS[:20], 8, 4, 0))
    with pytest.raises(UserError, match=r"seq_len: windows of 8 .* longer than the text.* has 7"):
        next(window_batches(TOKENS[:7], 8, 4, 0))
    with pytest.raises(UserError, match=r"seq_len: .* which has 0"):
        count_windows(TOKENS[:0], 8, 4, more=1)
