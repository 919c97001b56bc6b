"""What `explain` says of each parameter, and what it warns of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import mupkit
from mupkit.explain import explain, findings, power


class Net(nn.Module):
    """An embedding, a position, a hidden layer, a convolutional head."""

    def __init__(self, width, tied=False, attention=False):
        super().__init__()
        self.word = nn.Embedding(11, width)
        self.position = nn.Parameter(torch.randn(7, width))
        self.hidden = nn.Linear(width, 2 * width)
        self.head = nn.Conv1d(2 * width, 5, 1)
        if tied:
            self.readout = nn.Linear(width, 11, bias=False)
            self.readout.weight = self.word.weight
        if attention:
            self.attention = nn.MultiheadAttention(width, 2)


def parametrized(width=64, base=16, rules=mupkit.TABLE_8, seed=0, **options):
    torch.manual_seed(seed)
    return mupkit.parametrize(Net(width, **options), Net(base, **options), rules=rules)


def rows(model, optimizer=None):
    return {row.name: row for row in explain(model, optimizer)}


def test_a_row_says_what_the_table_and_the_optimizer_do():
    model = parametrized()
    optimizer = mupkit.MuAdamW(model, lr=0.1, weight_decay=0.01, eps=1e-6)
    found = rows(model, optimizer)
    assert list(found) == [name for name, _ in model.named_parameters()]
    hidden = found["hidden.weight"]
    assert (hidden.role, hidden.fan_in, hidden.fan_out) == ("hidden", 64, 128)
    assert hidden.widths == "32 -> 128, 16 -> 64"
    assert hidden.lr == pytest.approx(0.1 / 4)
    assert hidden.weight_decay == pytest.approx(0.01 * 4)
    assert hidden.eps == pytest.approx(1e-6 / 4)
    assert hidden.init_std == pytest.approx(model.hidden.weight.square().mean().sqrt().item())
    assert hidden.rule == "Table 8, hidden weights: std 1/sqrt(fan_in), adam lr 1/fan_in"
    head = found["head.weight"]
    assert (head.role, head.multiplier) == ("output", 1 / 4)
    assert head.rule.startswith("Table 8, output weights: std 1, multiplier 1/fan_in")
    assert found["head.bias"].widths == "-"
    assert found["position"].role == "input"


def test_without_optimizer_or_data_the_cells_are_empty():
    with torch.device("meta"):
        model = mupkit.parametrize(Net(64), Net(16))
    assert {(row.init_std, row.lr, row.eps) for row in explain(model)} == {(None, None, None)}


@pytest.mark.parametrize(
    ("exponents", "text"),
    [
        ((0, 0), "1"),
        ((-1, 0), "1/fan_in"),
        ((-0.5, 0.5), "sqrt(fan_out)/sqrt(fan_in)"),
        ((0, 1), "fan_out"),
        ((-0.75, 0), "1/fan_in^0.75"),
    ],
)
def test_exponents_as_text(exponents, text):
    assert power(exponents) == text


def warnings_of(model, **options):
    return [f for f in findings(model, **options) if f.level == "warning"]


@pytest.mark.parametrize("rules", [mupkit.TABLE_3, mupkit.TABLE_8, mupkit.TABLE_9])
@pytest.mark.parametrize("make", [mupkit.MuAdam, mupkit.MuSGD, mupkit.MuFrobenius])
def test_a_right_model_has_no_warnings(rules, make):
    model = parametrized(rules=rules)
    torch.manual_seed(1)
    base = Net(16)
    base = mupkit.parametrize(base, Net(16), Net(17), rules=rules)
    assert warnings_of(model, base=base, optimizer=make(model, lr=0.1)) == []


def test_a_tied_embedding_and_a_free_parameter_are_noted():
    notes = {f.where: f for f in findings(parametrized(tied=True)) if f.level == "note"}
    assert notes.keys() == {"readout.weight", "position"}
    assert "multiplied by 0.25" in notes["readout.weight"].what
    assert 'layout={"position": "out_in"}' in notes["position"].fix


def test_what_layout_tells_is_not_noted():
    """Also where it says what the parameter is taken for without it, and through a wrapper."""
    for stored in ("in_out", "out_in"):
        model = mupkit.parametrize(Net(64), Net(16), layout={"position": stored})
        for seen in (model, nn.DataParallel(model)):
            assert [f.where for f in findings(seen) if f.level == "note"] == []


def test_attention_of_torch_is_warned_of():
    assert [f.where for f in warnings_of(parametrized(attention=True))] == ["attention"]


def test_a_model_that_is_its_own_base_is_warned_of():
    [found] = warnings_of(mupkit.parametrize(Net(16), None))
    assert "no dimension" in found.what


@pytest.mark.parametrize(("factor", "named"), [(1.0, False), (4.0, True)])
def test_a_constant_of_few_entries_is_compared_exactly(factor, named):
    models = []
    for width in (16, 64):
        model = Net(width)
        nn.init.constant_(model.head.bias, -4.6)
        models.append(model)
    base, model = models[0], mupkit.parametrize(models[1], models[0])
    with torch.no_grad():
        model.head.bias.mul_(factor)
    assert [f.where for f in warnings_of(model, base=base)] == ["head.bias"] * named


def test_few_drawn_entries_are_given_to_chance():
    """A thousand pairs of models, of which none is wrong."""
    for n in (1, 2, 3, 8, 15):
        pairs = torch.rand(1000, 2, n).mul(2).sub(1)
        ratios = (pairs.square().mean(-1).sqrt().log().diff(dim=1)).abs()
        assert ratios.max() < 0.1 + max(5 / math.sqrt(2 * n), 12 / n)


def test_a_foreign_initialization_is_named():
    model = parametrized()
    nn.init.normal_(model.hidden.weight, std=0.5)
    [found] = warnings_of(model, base=Net(16))
    assert found.where == "hidden.weight"
    assert "mupkit.init" in found.fix


def test_a_plain_optimizer_is_named():
    model = parametrized()
    [found] = warnings_of(model, optimizer=torch.optim.Adam(model.parameters(), lr=0.1))
    assert found.where == "hidden.weight"
    assert "4 times" in found.what


def test_rates_that_were_changed_afterwards_are_named():
    model = parametrized()
    optimizer = mupkit.MuAdam(model, lr=0.1)
    for group in optimizer.param_groups:
        group["lr"], group["lr_mult"] = 0.1, 1.0
    assert [f.where for f in warnings_of(model, optimizer=optimizer)] == ["hidden.weight"]


def test_a_parameter_that_the_optimizer_lacks_is_named():
    model = parametrized()
    optimizer = mupkit.MuAdam([model.hidden.weight], lr=0.1)
    missing = {f.where for f in warnings_of(model, optimizer=optimizer)}
    assert missing == {n for n, _ in model.named_parameters()} - {"hidden.weight"}


@pytest.mark.parametrize(
    ("make", "right"),
    [
        (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100), True),
        (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100, eta_min=0.01), False),
        (lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=101), False),
    ],
)
def test_a_scheduler_of_absolute_rates_is_warned_of(make, right):
    model = parametrized()
    optimizer = mupkit.MuAdam(model, lr=0.1)
    found = warnings_of(model, optimizer=optimizer, scheduler=make)
    assert [f.where for f in found] == ([] if right else ["scheduler"])
    for finding in found:
        assert finding.what.startswith("the learning rates of groups 0 and 1 have lost the ratio")
        assert finding.what[-1].isdigit(), "the rates, and no fix"
        assert finding.fix.startswith("It sets absolute rates: give it a list")


def test_an_error_in_the_scheduler_itself_is_not_taken_for_a_lost_ratio():
    def make(optimizer):
        raise ValueError("no such schedule")

    model = parametrized()
    with pytest.raises(ValueError, match="no such schedule"):
        findings(model, optimizer=mupkit.MuAdam(model, lr=0.1), scheduler=make)


def test_stds_are_those_of_the_root_mean_square():
    model = parametrized()
    nn.init.constant_(model.head.bias, 3.0)
    assert math.isclose(rows(model)["head.bias"].init_std, 3.0)
