"""One import changes: what `mup` has under a name, mupkit has under the same name."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import mup
import mup.init
import mup.layer
import mup.optim
import mup.shape
import pytest
import torch
from torch import nn

import mupkit
from mupkit import infshape, init, layer, optim, shape

MODULES = ("coord_check", "infshape", "init", "layer", "optim", "shape")
# Of mup.coord_check: its own helpers, and an example that needs a data set.
LEFT_OUT = {"cov", "covoffdiag", "convert_fdict", "example_plot_coord_check"}


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_there(name):
    theirs, ours = (importlib.import_module(f"{package}.{name}") for package in ("mup", "mupkit"))
    public = {
        key
        for key, value in vars(theirs).items()
        if getattr(value, "__module__", None) == theirs.__name__ and not key.startswith("_")
    }
    assert len(public) >= 2
    assert {key for key in public if not hasattr(ours, key)} <= LEFT_OUT


def test_every_method_of_an_infshape_is_there():
    for name in ("InfShape", "InfDim"):
        theirs, ours = getattr(mup.infshape, name), getattr(infshape, name)
        public = {key for key in vars(theirs) if not key.startswith("_")}
        assert {key for key in public if not hasattr(ours, key)} <= {"from_base_shape"}


def build(package, width, d_in=6):
    readout = package.MuReadout(2 * width, 3)
    return nn.Sequential(nn.Linear(d_in, width), nn.Linear(width, 2 * width), readout)


@pytest.fixture
def pair():
    """The same model in both packages."""
    found = []
    for package in (mup, mupkit):
        torch.manual_seed(0)
        model, *shapes = (build(package, width) for width in (64, 16, 24))
        package.set_base_shapes(model, shapes[0], delta=shapes[1])
        found.append(model)
    return found


def test_infshapes_say_the_same(pair):
    for p, q in zip(*(model.parameters() for model in pair), strict=True):
        theirs, ours = p.infshape, q.infshape
        for attribute in ("base_shape", "shape", "serialize", "ninf", "width_mult"):
            assert getattr(theirs, attribute)() == getattr(ours, attribute)()
        assert theirs.main_idx == ours.main_idx
        if theirs.main is not None:
            assert theirs.main.dim == ours.main.dim
        if len(theirs) > 1:
            assert theirs.fanin_fanout_mult_ratio() == ours.fanin_fanout_mult_ratio()
        assert infshape.InfShape.deserialize(ours.serialize()) == ours
    with pytest.raises(AttributeError):
        ours.main_idx = 0  # as the migration page says: layout=


@pytest.mark.parametrize("same", [True, False])
def test_sizes_are_zipped_alike(same):
    theirs = mup.infshape.zip_infshape([64, 128], [64, 256], fin_if_same=same)
    ours = infshape.zip_infshape([64, 128], [64, 256], fin_if_same=same)
    assert theirs.serialize() == ours.serialize()
    again = infshape.zip_infshape(ours.dims, [64, 512], fin_if_same=same)
    assert again.base_shape() == ours.base_shape()
    with pytest.raises(ValueError):
        infshape.zip_infshape([1, 2], [1])


def test_shapes_of_models_are_zipped_and_applied_alike():
    models = [[build(package, width) for width in (16, 64)] for package in (mup, mupkit)]
    (base, wide), (our_base, ours) = models
    theirs = mup.shape.zip_infshapes(base, wide)
    found = shape.zip_infshapes(our_base, ours)
    assert {name: s.serialize() for name, s in theirs.items()} == {
        name: s.serialize() for name, s in found.items()
    }
    assert shape.clear_dims(found) == {name: s.base_shape() for name, s in theirs.items()}
    before = [p.clone() for p in ours.parameters()]
    shape.apply_infshapes(ours, found)
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), before, strict=True))
    rates = {group["lr"] for group in mupkit.MuAdam(ours.parameters(), lr=1.0).param_groups}
    assert rates == {1.0, 0.25}
    shape.assert_hidden_size_inf(ours)
    with pytest.raises(KeyError):
        shape.apply_infshapes(ours, {})


def test_an_output_layer_that_is_no_readout_is_refused():
    plain = [nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)) for width in (8, 16)]
    shape.apply_infshapes(plain[1], shape.zip_infshapes(*plain))
    with pytest.raises(ValueError, match="MuReadout"):
        shape.assert_hidden_size_inf(plain[1])


def test_a_bias_is_rescaled_once_and_never_twice():
    class Own(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(width, width))
            self.bias = nn.Parameter(torch.ones(width))

    model = Own(64)
    shape.apply_infshapes(model, shape.zip_infshapes(Own(16), model))
    layer.rescale_linear_bias(model)
    layer.rescale_linear_bias(model)
    assert model.bias.unique().tolist() == [2.0]
    linear = nn.Linear(64, 64)
    mupkit.set_base_shapes(linear, nn.Linear(16, 16))
    before = linear.bias.clone()
    layer.rescale_linear_bias(linear)
    assert torch.equal(linear.bias, before)
    with pytest.raises(ValueError, match="has no base shape"):
        layer.rescale_linear_bias(nn.Linear(2, 2))


def test_a_sampler_of_ones_own_is_scaled_alike(pair):
    def sampler_(tensor, scale=1):
        nn.init.constant_(tensor, 3.0 * scale)

    for package, model in zip((mup, mupkit), pair, strict=True):
        for p in model.parameters():
            package.init.constant_std_init_(p, sampler_)
    for p, q in zip(*(model.parameters() for model in pair), strict=True):
        torch.testing.assert_close(p, q)


def test_the_identity_is_for_weights_with_one_width():
    model = nn.Linear(4, 32)
    mupkit.set_base_shapes(model, nn.Linear(4, 16))
    assert torch.equal(init.eye_(model.weight), torch.eye(32, 4))
    matrix = nn.Linear(32, 32)
    mupkit.set_base_shapes(matrix, nn.Linear(16, 16))
    with pytest.raises(ValueError, match="matrix-like"):
        init.eye_(matrix.weight)


@pytest.mark.parametrize("options", [{"lr": 1.0}, {"lr": 1.0, "weight_decay": 0.5}])
@pytest.mark.parametrize("grouped", [False, True])
def test_groups_are_processed_alike(options, grouped):
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(2)]

    def given():
        own = [{"params": parameters[:1], "lr": 3.0}, {"params": parameters[1:]}]
        return own if grouped else parameters

    expected = mup.optim.process_param_groups(given(), **options)
    before = given()
    found = optim.process_param_groups(before, **options)
    assert found == expected
    assert before == given(), "the groups that were given stay as they are"
    with pytest.raises(ValueError, match="needs lr"):
        optim.process_param_groups(parameters)


def test_a_loss_may_be_a_function():
    from mupkit.coord_check import get_coord_data

    def models(width):
        return lambda: mupkit.set_base_shapes(build(mupkit, width), build(mupkit, 8))

    batches = [(torch.randn(5, 6), torch.randint(3, (5,)))]
    options = {"models": {16: models(16)}, "dataloader": batches, "nsteps": 2}
    frames = [
        get_coord_data(**options, lossfn=lossfn, show_progress=False)
        for lossfn in ("xent", nn.functional.cross_entropy)
    ]
    assert frames[0].equals(frames[1])
    with pytest.raises(ValueError, match="lossfn is 'l3'"):
        get_coord_data(**options, lossfn="l3")


MINI = """
import unittest
from mup.shape import get_shapes
from mup.test.models import width

class Case(unittest.TestCase):
    def test_it(self):
        import mup.infshape
        self.assertEqual(get_shapes(width(3)).keys(), {"weight", "bias"})
        self.assertIn("mupkit", get_shapes.__module__)
        width(2).cuda()

if __name__ == "__main__":
    unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(Case))
"""


def test_the_suite_of_mup_runs_on_a_copy_of_a_checkout(tmp_path):
    tests = tmp_path / "mup" / "test"
    tests.mkdir(parents=True)
    (tests / "__main__.py").write_text(MINI)
    (tests / "models.py").write_text("from torch import nn\nwidth = lambda n: nn.Linear(n, n)\n")
    script = Path(__file__).parents[2] / "tools" / "mup_suite.py"
    one = ("Case.test_it", "--seed", "1")
    for package, options, code in (("mupkit", (), 0), ("mupkit", one, 0), ("mup", (), 1)):
        command = [sys.executable, script, tmp_path, *options, "--package", package]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert (tests / "__main__.py").read_text() == MINI
    missing = subprocess.run([sys.executable, script, tests], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "give a clone of microsoft/mup" in missing.stderr
