"""What is expected of updates follows from shapes and real multipliers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import mupkit
from mupkit.coord_check import coord_check
from mupkit.coord_check.theory import Stored, expected_updates, stored_parameters
from mupkit.rules import TABLE_3, TABLE_8, TABLE_9
from tests.mupkit.coord_check import cases
from tests.mupkit.models import MLP, PLAIN, Tied


def expected(build, widths=(32, 64)):
    narrow, wide = (stored_parameters(build(width)) for width in widths)
    assert set(expected_updates(narrow, narrow, wide).values()) == {0.0}
    return expected_updates(wide, narrow, wide)


class Layers(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.word = nn.Embedding(11, width)
        self.position = nn.Parameter(torch.zeros(7, width))
        self.gain = nn.Parameter(torch.ones(()))
        self.up = nn.Linear(width, 4 * width)
        self.conv = nn.Conv2d(width, width, 3)
        self.unconv = nn.ConvTranspose2d(width, 3, 2)
        self.head = nn.Linear(width, 5)


def test_plain_models_are_judged_by_their_shapes():
    zero = ("word.weight", "position", "gain", "up.bias", "conv.bias", "unconv.bias", "head.bias")
    assert expected(Layers) == {
        **dict.fromkeys(zero, 0),
        **dict.fromkeys(("up.weight", "conv.weight", "unconv.weight", "head.weight"), -1),
    }


def test_a_fan_in_that_scales_by_itself():
    def build(width):
        return MLP(PLAIN, width, 8 * width if width == 64 else 4 * width)

    assert expected(build)["hidden.weight"] == -1
    assert expected(build)["readout.weight"] == -2


def test_multipliers_are_those_the_model_has():
    assert expected(cases.mlp)["readout.weight"] == 0
    assert expected(cases.without_multiplier)["readout.weight"] == -1


def test_a_tied_weight_is_an_embeddings():
    def build(width):
        def tied(width):
            return Tied(width, mupkit.MuSharedReadout)

        return mupkit.set_base_shapes(tied(width), tied(32), delta=tied(33))

    assert expected(build)["word.weight"] == 0


def test_base_shapes_that_are_wrong_play_no_part():
    assert expected(cases.forgotten_delta)["hidden.weight"] == -1


@pytest.mark.parametrize("rules", [TABLE_3, TABLE_8, TABLE_9], ids=lambda rules: rules.name)
@pytest.mark.parametrize("family", ["adam", "sgd"])
def test_every_formulation_passes(rules, family):
    def build(width):
        model, base, delta = (MLP(PLAIN, w, w) for w in (width, 32, 33))
        return mupkit.parametrize(model, base, delta, rules=rules)

    make_optimizer = {"adam": cases.mu_adam, "sgd": cases.mu_sgd}[family]
    check = partial(coord_check, widths=cases.WIDTHS, loss=cases.mlp_loss)
    report = check(build, make_optimizer=make_optimizer)
    assert report.passed, report


def test_too_many_widths_are_named():
    stored = [{"w": Stored((n, n, n), False, False, False, 1.0)} for n in (2, 4)]
    with pytest.raises(ValueError, match="w: 3 dimensions"):
        expected_updates(stored[1], *stored)
