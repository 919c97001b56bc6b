"""Batches of sentence pairs by tokens."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest
import torch

from experiments.data.token_batches import epoch_batches, token_batches
from experiments.errors import UserError

RNG = np.random.default_rng(0)
SOURCE, TARGET = RNG.integers(2, 40, (2, 600))
MAX = 200


def epochs(count: int, seed: int = 0) -> list[list[tuple[int, ...]]]:
    """The batches of some epochs."""
    size = epoch_batches(SOURCE, TARGET, MAX)
    stream = token_batches(SOURCE, TARGET, MAX, seed)
    return [[tuple(b.tolist()) for b in islice(stream, size)] for _ in range(count)]


def tokens(batch: tuple[int, ...] | list[int]) -> int:
    """Of the larger side, padding included."""
    return len(batch) * max(SOURCE[list(batch)].max(), TARGET[list(batch)].max())


def test_every_pair_is_in_an_epoch_once_and_no_batch_is_too_large() -> None:
    for epoch in epochs(2):
        assert sorted(i for batch in epoch for i in batch) == list(range(600))
        assert max(map(tokens, epoch)) <= MAX


def test_batches_are_as_large_as_fit_and_sorted_by_length() -> None:
    order = sorted(epochs(1)[0], key=lambda b: (SOURCE[b[0]], TARGET[b[0]]))
    pairs = [(SOURCE[i], TARGET[i]) for batch in order for i in batch]
    # Batches whose first pairs are equal may be swapped here; there are none in these numbers.
    assert pairs == sorted(pairs)
    for batch, following in pairwise(order):
        assert tokens([*batch, following[0]]) > MAX


def test_epochs_differ_in_the_order_of_the_same_batches() -> None:
    first, second, third = epochs(3)
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second and second != third
    assert first != sorted(first, key=lambda b: SOURCE[b[0]])


def test_the_seed_decides() -> None:
    torch.manual_seed(1)
    first = epochs(2, seed=3)
    torch.manual_seed(2)
    assert epochs(2, seed=3) == first
    other = epochs(2, seed=4)
    assert sorted(other[0]) != sorted(first[0])  # equals in length are elsewhere
    assert len(other[0]) == len(first[0])


def test_one_batch_and_one_pair() -> None:
    lengths = np.array([3, 5])
    batch = next(token_batches(lengths, lengths[::-1].copy(), 10, 0))
    assert batch.dtype == torch.int64 and sorted(batch.tolist()) == [0, 1]
    assert epoch_batches(lengths, lengths, 10) == 1 and epoch_batches(lengths, lengths, 9) == 2


@pytest.mark.parametrize("sides", [([7], [3]), ([3], [7])])
def test_a_sentence_that_does_not_fit_names_the_key(sides: tuple[list[int], list[int]]) -> None:
    source, target = map(np.array, sides)
    for function in (lambda: next(token_batches(source, target, 6, 0)),
                     lambda: epoch_batches(source, target, 6)):  # fmt: skip
        with pytest.raises(UserError, match=r"\Abatch_size: 6 .*7 or more\Z"):
            function()
    assert epoch_batches(source, target, 7) == 1
