"""What is set twice must agree, and what was done in another order must not pass in silence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import mupkit
from mupkit import TABLE_3, TABLE_8, TABLE_9
from mupkit.infshape import InfDim, InfShape


def build(width, classes=2):
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, classes))


def parametrized(width=64, rules=TABLE_3):
    torch.manual_seed(0)
    return mupkit.parametrize(build(width), build(16), build(24), rules=rules)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of tracing
@pytest.mark.parametrize("rules", [TABLE_8, TABLE_9], ids=["8", "9"])
@pytest.mark.parametrize("way", ["wrapper", "inside the wrapper", "in place"])
def test_a_model_that_was_compiled_and_called_before_has_its_multipliers(way, rules):
    model, x = build(64), torch.randn(3, 8)
    called = model if way == "in place" else torch.compile(model, backend="eager")
    if way == "in place":
        model.compile(backend="eager")
    called(x)
    given = called if way == "wrapper" else model
    mupkit.parametrize(given, build(16), build(24), rules=rules)
    plain = copy.deepcopy(model)
    plain._compiled_call_impl = None
    torch.testing.assert_close(called(x), plain(x))


@pytest.mark.parametrize("use", [mupkit.MuAdam, mupkit.MuSGD])
def test_an_exchanged_head_is_refused(use):
    model = parametrized()
    model[2] = nn.Linear(64, 5)
    with pytest.raises(ValueError, match=r"2\.weight has the shape \(5, 64\), .* exchange layers"):
        use(model, lr=0.1)
    with pytest.raises(ValueError, match=r"2\.weight has the shape"):
        mupkit.get_infshapes(model)
    mended = mupkit.parametrize(model, build(16, 5), build(24, 5), rescale_params=False)
    rates = {group["lr"] for group in use(mended, lr=0.1).param_groups}
    assert len(rates) > 1


def test_a_shape_that_was_set_by_hand_and_disagrees_is_refused():
    model = parametrized()
    model[0].weight.infshape = InfShape([InfDim(None, 64), InfDim(None, 8)])
    with pytest.raises(ValueError, match=r"0\.weight\.infshape is .* layout="):
        mupkit.MuAdam(model, lr=0.1)
    turned = parametrized()
    turned[0].weight.infshape = InfShape(turned[0].weight.infshape.dims, transposed=True)
    with pytest.raises(ValueError, match=r"0\.weight\.infshape is"):
        mupkit.get_infshapes(turned)


def test_applied_shapes_replace_both():
    model = parametrized()
    finite = {
        name: InfShape([InfDim(None, n) for n in p.shape]) for name, p in model.named_parameters()
    }
    mupkit.shape.apply_infshapes(model, finite)
    for given in (model, model.parameters()):
        assert {group["lr"] for group in mupkit.MuAdam(given, lr=0.1).param_groups} == {0.1}


def test_a_readout_with_a_multiplier_of_its_own_is_refused():
    class Own(mupkit.MuReadout):
        def width_mult(self):
            return 3.0

    def with_own(width):
        return nn.Sequential(nn.Linear(8, width), Own(width, 2))

    with pytest.raises(ValueError, match=r"Own\.width_mult\(\) is 3, .* output_mult"):
        mupkit.set_base_shapes(with_own(64), with_own(16))


NORMS = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "weight_norm of old": lambda layer: nn.utils.weight_norm(layer),
    "spectral_norm of old": lambda layer: nn.utils.spectral_norm(layer),
}


def normed(width, norm, where):
    layers = [nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2)]
    layers[where] = norm(layers[where])
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", NORMS)
def test_norms_of_hidden_weights_keep_their_rules(name):
    def of(width):
        torch.manual_seed(0)
        return normed(width, NORMS[name], 1)

    model = mupkit.parametrize(of(256), of(16), of(24))
    shapes = mupkit.get_infshapes(model)
    roles = {key: shape.role() for key, shape in shapes.items() if key.startswith("1.")}
    matrices = {
        key for key in roles if model.get_parameter(key).ndim == 2 and "original0" not in key
    }
    matrices -= {"1.weight_g"}
    assert {roles[key] for key in matrices} == {"hidden"}
    assert {role for key, role in roles.items() if key not in matrices} == {"input"}
    # PyTorch's default has the std of Table 3 already; biases become as large as at base width.
    plain = of(256)
    for key in matrices:
        assert torch.equal(model.get_parameter(key), plain.get_parameter(key))
    ratio = model.get_parameter("1.bias") / plain.get_parameter("1.bias")
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("where", [0, 2])
def test_norms_that_set_what_mup_sets_are_refused(name, where):
    def of(width):
        return normed(width, NORMS[name], where)

    if where == 0 and name.startswith("weight_norm"):
        mupkit.parametrize(of(64), of(16), of(24))
        return
    kind, role = name.split()[0], "input" if where == 0 else "output"
    with pytest.raises(ValueError, match=f"{kind} takes the size of an {role} weight away"):
        mupkit.parametrize(of(64), of(16), of(24))
