"""Data on a GPU, with torch's device "meta" in its place, which has no numbers."""

import pytest
import torch

from experiments.data import held

ARRAY = torch.arange(12.0).view(4, 3)


@pytest.fixture(autouse=True)
def card(monkeypatch) -> None:
    monkeypatch.setattr(held, "free", lambda device: 10 * ARRAY.nbytes)
    monkeypatch.setattr(held, "_HELD", {})


def test_nothing_is_copied_on_a_cpu() -> None:
    assert held.held(ARRAY, "a", "cpu") is ARRAY
    assert held.sent(ARRAY, "cpu") is ARRAY
    assert not held._HELD


def test_an_array_is_on_the_gpu_once() -> None:
    there = held.held(ARRAY, "a", "meta")
    assert there.device.type == "meta" and held.held(ARRAY.clone(), "a", "meta") is there
    assert held.held(ARRAY, "b", "meta") is not there
    assert held.rows(ARRAY, "a", torch.tensor([3, 1]), "meta").shape == (2, 3)


def test_one_that_is_too_large_stays_and_its_batches_are_sent(monkeypatch, capsys) -> None:
    monkeypatch.setattr(held, "free", lambda device: 10 * ARRAY.nbytes - 10)
    for _ in range(2):
        assert held.held(ARRAY, "a", "meta") is ARRAY
        assert held.rows(ARRAY, "a", torch.tensor([3, 1]), "meta").device.type == "meta"
    assert capsys.readouterr().err.count("stay in the machine's memory") == 1
