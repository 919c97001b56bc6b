"""Wider is better in µP, and a width at which training fails is named."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

from mupkit.coord_check import wider_is_better
from mupkit.coord_check.wider import _compare
from tests.mupkit.coord_check import cases
from tests.mupkit.models import PLAIN


class Level(nn.Module):
    """A loss that is `level(width)`, with noise by seed."""

    def __init__(self, level, width):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level(width)) + 0.1 * torch.rand(()))


def levels(level, widths=(1, 2, 4)):
    return wider_is_better(
        lambda width: Level(level, width),
        widths,
        make_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0),
        loss=lambda model: model.level + 0,
        steps=20,
    )


def test_falling_and_equal_losses_pass():
    assert levels(lambda width: -float(width)).passed
    assert levels(lambda width: 0.0).passed


def test_the_pair_that_is_worse_is_named():
    found = levels(lambda width: float(width == 4))
    assert not found.passed
    assert [(c.narrow, c.wide) for c in found.failures] == [(2, 4)]
    assert found.failures[0].difference == pytest.approx(1)
    assert "2 -> 4: loss +1.0000 [+1.0000, +1.0000]  worse" in str(found)


def test_divergence_is_worse_than_anything():
    diverged, fine = [1.0, math.nan], [1.0, 2.0]
    assert _compare(1, 2, fine, diverged).worse
    assert _compare(1, 2, diverged, diverged).worse
    assert not _compare(1, 2, diverged, fine).worse


@pytest.mark.parametrize("make_optimizer", [cases.mu_adam, cases.mu_sgd])
def test_training_in_mup(make_optimizer):
    found = wider_is_better(
        cases.mlp, [32, 128], make_optimizer=make_optimizer, loss=cases.mlp_loss, steps=10
    )
    assert found.passed, found
    assert [len(losses) for losses in found.losses.values()] == [5, 5]


def test_one_rate_for_all_that_wide_models_do_not_bear():
    def make_optimizer(model):
        return torch.optim.Adam(model.parameters(), lr=0.03)

    found = wider_is_better(
        partial(cases.mlp, lib=PLAIN),
        [32, 512],
        make_optimizer=make_optimizer,
        loss=cases.mlp_loss,
        steps=5,
    )
    assert not found.passed, found


@pytest.mark.parametrize("wrong", [{"widths": [8]}, {"seeds": [0]}, {"steps": 0}])
def test_too_little_to_compare(wrong):
    options = {"widths": [8, 16], "seeds": [0, 1], **wrong}
    with pytest.raises(ValueError, match="two widths, two seeds and a step"):
        wider_is_better(cases.mlp, make_optimizer=cases.mu_adam, loss=cases.mlp_loss, **options)
