"""The initializers of `mupkit.init` pass the coordinate check; a constant std does not."""

from __future__ import annotations

import pytest
import torch

from mupkit import init
from mupkit.coord_check import coord_check
from tests.mupkit.coord_check.cases import WIDTHS, mlp, mlp_loss, mu_adam


def initialized(width, lib):
    model = mlp(width)
    lib.kaiming_normal_(model.input.weight, a=1)
    lib.kaiming_normal_(model.hidden.weight, a=1)
    lib.normal_(model.readout.weight, std=0.1)
    return model


def constant_hidden(width):
    model = initialized(width, init)
    torch.nn.init.normal_(model.hidden.weight, std=0.2)
    return model


@pytest.mark.parametrize(
    ("build", "right"), [(lambda width: initialized(width, init), True), (constant_hidden, False)]
)
def test_what_is_drawn_by_mupkit_keeps_its_size_at_every_width(build, right):
    report = coord_check(build, WIDTHS, make_optimizer=mu_adam, loss=mlp_loss)
    assert report.passed is right, report
    assert right or "hidden" in {v.fit.tensor for v in report.failures}
