"""The names of the mup package: the same numbers, and clear errors without pandas or a painter."""

from __future__ import annotations

import subprocess
import sys

import mup
import mup.coord_check
import numpy as np
import pandas as pd
import pytest
from torch.nn import functional as F

import mupkit
from mupkit.coord_check import compat, get_coord_data, plot_coord_data
from tests.mupkit.models import MLP, Transformer, batch

STATISTICS = ("l1", "l2", "mean", "std", "covl1", "covl2", "covoffdiagl1", "covoffdiagl2")
EVERYTHING = {
    "output_fdict": {name: name for name in STATISTICS},
    "input_fdict": {"l1": "l1"},
    "param_fdict": {"l1": lambda x: x.abs().mean()},
    "filter_module_by_name": lambda name: name != "readout",
    "filter_trainable_by_name": lambda name: "bias" not in name,
}


def models(lib):
    def lazy(width):
        return lambda: lib.set_base_shapes(
            MLP(lib, width, width), MLP(lib, 16, 16), delta=MLP(lib, 17, 17)
        )

    return {width: lazy(width) for width in (16, 32)}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("lossfn", ["xent", "mse"])
@pytest.mark.parametrize(
    "options", [{}, {"nseeds": 2, "nsteps": 2}, EVERYTHING], ids=("none", "few", "all")
)
def test_the_data_are_those_of_mup(optimizer, lossfn, options):
    options = {**options, "optimizer": optimizer, "lossfn": lossfn, "cuda": False}
    loader = [batch("mlp")]
    ours = get_coord_data(models(mupkit), loader, show_progress=False, **options)
    theirs = mup.coord_check.get_coord_data(models(mup), loader, show_progress=False, **options)
    assert set(ours.columns) == set(theirs.columns)
    keys = ["width", "module", "t"]
    assert ours[keys].values.tolist() == theirs[keys].values.tolist()
    for column in set(ours.columns) - {*keys, "optimizer", "lr"}:
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-3, atol=1e-6)


class WithLoss(Transformer):
    def forward(self, tokens, labels):
        logits = super().forward(tokens)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels), "logits": logits}


def test_dictionaries():
    tokens, labels = batch("transformer")
    lazy = {16: lambda: mupkit.set_base_shapes(WithLoss(mupkit, 16, 16), None)}
    loader = [{"tokens": tokens, "labels": labels}]
    data = get_coord_data(lazy, loader, dict_in_out=True, cuda=False, show_progress=False)
    assert {":out[loss]", ":out[logits]", "readout"} <= set(data["module"])


def test_progress_goes_to_stderr(capsys):
    get_coord_data(models(mupkit), [batch("mlp")], cuda=False, nsteps=1)
    assert capsys.readouterr().err.splitlines() == [
        "coordinate check: seed 0, width 16",
        "coordinate check: seed 0, width 32",
    ]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="'lion', allowed are sgd"):
        get_coord_data(models(mupkit), [batch("mlp")], optimizer="lion")
    with pytest.raises(ValueError, match="'l1', allowed are xent"):
        get_coord_data(models(mupkit), [batch("mlp")], lossfn="l1")


def test_without_pandas_it_says_so():
    code = """
import sys
sys.modules["pandas"] = None
from mupkit.coord_check import get_coord_data
try:
    get_coord_data({}, [])
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "install pandas" in done.stdout


DATA = pd.DataFrame({"width": [1, 2], "t": 1, "module": ["a", ""], "l1": 1.0, "l2": [3.0, 4.0]})


def test_pictures_are_drawn_by_whoever_is_named(monkeypatch, tmp_path):
    drawn = []

    class Figure:
        def savefig(self, file):
            file.write_text("picture")

    class Painter:
        @staticmethod
        def paint(df, title):
            drawn.append((df, title))
            return Figure()

    monkeypatch.setattr(compat, "PLOT", "painter:paint")
    monkeypatch.setitem(sys.modules, "painter", Painter)
    figure = plot_coord_data(DATA, y="l2", save_to=tmp_path / "x.svg", title="t")
    assert isinstance(figure, Figure)
    assert (tmp_path / "x.svg").read_text() == "picture"
    df, title = drawn[0]
    assert title == "t"
    assert df.to_dict("records") == [{"width": 1, "t": 1, "module": "a", "l1": 3.0}]


@pytest.mark.parametrize("name", ["nowhere.at_all:draw", "math:draw"])
def test_without_a_painter_it_says_so(monkeypatch, name):
    monkeypatch.setattr(compat, "PLOT", name)
    with pytest.raises(ModuleNotFoundError, match="which cannot be imported"):
        plot_coord_data(DATA)
