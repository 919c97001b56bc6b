"""The usage that the `mup` package publishes in its README, with the import changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mupkit as mup
from mupkit import MuAdam, MuReadout, MuSGD, make_base_shapes, set_base_shapes


class MyModel(nn.Module):
    """As in the README, with the attention it shows."""

    def __init__(self, width, d_in=6, d_out=3):
        super().__init__()
        self.embed = nn.Linear(d_in, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.readout = MuReadout(width, d_out)

    def forward(self, x):
        x = torch.relu(self.embed(x))
        query, key, value = self.query(x), self.key(x), self.value(x)
        attention_scores = query @ key.mT * 8 / query.shape[-1]
        return self.readout(attention_scores.softmax(-1) @ value)


class Tied(nn.Module):
    """ "If tying weights with an input nn.Embedding layer"."""

    def __init__(self, width):
        super().__init__()
        self.input_layer = nn.Embedding(11, width)
        self.hidden = nn.Linear(width, width)
        self.readout = mup.MuSharedReadout(self.input_layer.weight)

    def forward(self, tokens):
        return self.readout(torch.tanh(self.hidden(self.input_layer(tokens))))


@pytest.mark.parametrize("optimizer", [MuSGD, MuAdam])
@pytest.mark.parametrize("by_file", [False, True])
def test_basic_usage(by_file, optimizer, tmp_path):
    base_model = MyModel(width=1)
    delta_model = MyModel(width=2)
    model = MyModel(width=100)
    if by_file:
        filename = str(tmp_path / "path.bsh")
        make_base_shapes(base_model, delta_model, filename)
        set_base_shapes(model, filename)
    else:
        set_base_shapes(model, base_model, delta=delta_model)
    for param in model.parameters():
        mup.init.uniform_(param, -0.1, 0.1)
    assert model.query.weight.abs().max().item() <= 0.1 / 100**0.5
    assert model.readout.weight.abs().max().item() == pytest.approx(0.1, rel=0.05)
    assert model.query.weight.infshape.width_mult() == 100
    optimizer = optimizer(model.parameters(), lr=0.1 if optimizer is MuSGD else 0.01)
    torch.manual_seed(0)
    x, y = torch.randn(8, 5, 6), torch.randn(8, 5, 3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.99 * losses[0]


def test_tied_weights():
    model = set_base_shapes(Tied(100), Tied(1), delta=Tied(2))
    assert model.readout.weight is model.input_layer.weight
    before = model(torch.arange(11))
    MuAdam(model.parameters(), lr=0.1)
    assert before.shape == (11, 11)


def test_a_model_loaded_from_a_pickle(tmp_path):
    """ "you would have to set base shape manually after loading": possible, not needed."""
    make_base_shapes(MyModel(1), MyModel(2), tmp_path / "path.bsh")
    trained = set_base_shapes(MyModel(100), tmp_path / "path.bsh")
    torch.save(trained, tmp_path / "path.pt")
    model, x = torch.load(tmp_path / "path.pt", weights_only=False), torch.randn(2, 5, 6)
    assert torch.equal(model(x), trained(x))
    set_base_shapes(model, tmp_path / "path.bsh", rescale_params=False)
    assert torch.equal(model(x), trained(x))
    assert mup.get_infshapes(model) == mup.get_infshapes(trained)


def test_the_names_of_the_readme_are_there():
    for name in (
        "MuReadout",
        "MuSharedReadout",
        "MuSGD",
        "MuAdam",
        "MuAdamW",
        "InfDim",
        "InfShape",
    ):
        assert hasattr(mup, name)
    for name in ("make_base_shapes", "set_base_shapes", "get_shapes", "get_infshapes", "init"):
        assert hasattr(mup, name)
    for name in ("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_"):
        assert hasattr(mup.init, name)
