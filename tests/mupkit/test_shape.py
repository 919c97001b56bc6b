"""Base shapes: how they are found, what they change in a model, what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import mupkit
from mupkit import InfDim, InfShape, get_infshapes, make_base_shapes, set_base_shapes
from mupkit.base_shapes import infshape_of
from tests.mupkit.models import CNN, FAMILIES, MLP, Tied, Transformer, parametrized


def mlp(*widths, **options):
    return MLP(mupkit, *widths, **options)


def data_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_dimensions_that_differ_between_base_and_delta_scale():
    model = set_base_shapes(mlp(64, 120), mlp(16, 24), delta=mlp(17, 25))
    assert {name: repr(s) for name, s in get_infshapes(model).items()} == {
        "input.weight": "InfShape(16->64, 8)",
        "input.bias": "InfShape(16->64)",
        "hidden.weight": "InfShape(24->120, 16->64)",
        "hidden.bias": "InfShape(24->120)",
        "readout.weight": "InfShape(5, 24->120)",
        "readout.bias": "InfShape(5)",
    }
    for name, p in model.named_parameters():
        assert infshape_of(p) == p.infshape == get_infshapes(model)[name]


def test_without_delta_a_dimension_equal_to_the_bases_is_finite():
    shapes = get_infshapes(set_base_shapes(mlp(16, 120), mlp(16, 24)))
    assert shapes["hidden.weight"] == InfShape([InfDim(24, 120), InfDim(None, 16)])
    with_delta = set_base_shapes(mlp(16, 120), mlp(16, 24), delta=mlp(17, 25))
    expected = InfShape([InfDim(24, 120), InfDim(16, 16)])
    assert get_infshapes(with_delta)["hidden.weight"] == expected


# By how much the default initialization must be multiplied where d_model is 4 times its base and
# d_ffn 9 times: PyTorch draws weights and biases with std ~ 1/sqrt(fan_in); Table 8 wants hidden
# weights so, but readouts and biases constant. The attention's output has fan-in d_model.
TRANSFORMER_FACTORS = {
    "word.weight": 1,
    "position": 1,
    "attention.qkv.weight": 1,
    "attention.qkv.bias": 2,
    "attention.out.weight": 1,
    "attention.out.bias": 2,
    "norm.weight": 1,
    "norm.bias": 1,
    "ffn_in.weight": 1,
    "ffn_in.bias": 2,
    "ffn_out.weight": 1,
    "ffn_out.bias": 3,
    "ffn_norm.weight": 1,
    "ffn_norm.bias": 1,
    "temperature": 1,
    "readout.weight": 2,
    "readout.bias": 2,
}
CNN_FACTORS = {
    "conv.weight": 1,
    "conv.bias": 1,
    "norm.weight": 1,
    "norm.bias": 1,
    "conv_2.weight": 1,
    "conv_2.bias": 2,
    "readout.weight": 3,
    "readout.bias": 3,
}


@pytest.mark.parametrize(
    ("name", "factors", "target"),
    [("transformer", TRANSFORMER_FACTORS, (64, 288)), ("cnn", CNN_FACTORS, (32, 144))],
)
def test_the_default_initialization_becomes_that_of_table_8(name, factors, target):
    build, base, delta, _ = FAMILIES[name]
    model = build(mupkit, *target)
    before = data_of(model)
    set_base_shapes(model, build(mupkit, *base), delta=build(mupkit, *delta))
    expected = {parameter: before[parameter] * factor for parameter, factor in factors.items()}
    assert same(data_of(model), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_calling_twice_is_harmless(name):
    build, base, delta, targets = FAMILIES[name]
    model = parametrized(mupkit, name, targets[2])
    once, shapes = data_of(model), get_infshapes(model)
    set_base_shapes(model, build(mupkit, *base), delta=build(mupkit, *delta))
    assert same(data_of(model), once)
    assert get_infshapes(model) == shapes
    assert model.readout.width_mult() == shapes["readout.weight"].width_mult()


def test_a_second_base_gives_what_it_would_have_given_at_first():
    torch.manual_seed(0)
    fresh = mlp(64, 64)
    model = copy.deepcopy(fresh)
    for base in (None, mlp(32, 32), mlp(16, 16)):
        set_base_shapes(model, base)
    set_base_shapes(fresh, mlp(16, 16))
    for name, p in fresh.named_parameters():
        torch.testing.assert_close(dict(model.named_parameters())[name], p)
    assert model.readout.width_mult() == 4


def test_base_none_leaves_the_standard_parametrization():
    model = mlp(64, 96)
    before = data_of(model)
    assert set_base_shapes(model, None) is model
    assert same(data_of(model), before)
    assert {s.role() for s in get_infshapes(model).values()} == {"scalar"}
    assert model.readout.width_mult() == 1


def test_rescale_params_false_sets_multipliers_and_leaves_the_weights():
    model = mlp(64, 96)
    before = data_of(model)
    set_base_shapes(model, mlp(16, 24), rescale_params=False)
    assert same(data_of(model), before)
    assert model.readout.width_mult() == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_base_and_delta_may_be_on_the_meta_device_or_dictionaries(name):
    build, base, delta, targets = FAMILIES[name]
    model = parametrized(mupkit, name, targets[3])
    with torch.device("meta"):
        meta_base, meta_delta = build(mupkit, *base), build(mupkit, *delta)
    base_shapes = make_base_shapes(meta_base, meta_delta)
    sources = [
        (meta_base, meta_delta),
        (mupkit.get_shapes(meta_base), mupkit.get_shapes(meta_delta)),
        (base_shapes, None),
    ]
    for source, source_delta in sources:
        torch.manual_seed(0)
        other = set_base_shapes(build(mupkit, *targets[3]), source, delta=source_delta)
        assert same(data_of(other), data_of(model))
        assert get_infshapes(other) == get_infshapes(model)


def test_a_model_without_data_is_rescaled_when_it_has_some():
    with torch.device("meta"):
        model = set_base_shapes(mlp(64, 96), mlp(16, 24))
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    for module in model.children():
        module.reset_parameters()
    torch.manual_seed(0)
    expected = mlp(64, 96)
    for fresh in (model, expected):
        set_base_shapes(fresh, mlp(16, 24))
    assert same(data_of(model), data_of(expected))


def test_make_base_shapes_marks_finite_dimensions():
    assert make_base_shapes(mlp(16, 24, bias=False), mlp(17, 25, bias=False)) == {
        "input.weight": [16, None],
        "hidden.weight": [24, 16],
        "readout.weight": [None, 24],
    }


def test_parameters_that_differ_by_name_are_named():
    with pytest.raises(ValueError, match=r"input\.bias \(model only\)"):
        set_base_shapes(mlp(64, 64), mlp(16, 16, bias=False))
    with pytest.raises(ValueError, match=r"hidden\.bias \(base only\)"):
        set_base_shapes(mlp(64, 64, bias=False), mlp(16, 16))
    with pytest.raises(ValueError, match=r"hidden\.bias \(delta only\)"):
        set_base_shapes(mlp(64, 64, bias=False), mlp(16, 16, bias=False), delta=mlp(17, 17))


def test_a_different_number_of_dimensions_is_named():
    shapes = {**mupkit.get_shapes(mlp(16, 16)), "input.weight": (16, 2, 4)}
    with pytest.raises(ValueError, match=r"input\.weight has 3 dimensions in base, 2 in model"):
        set_base_shapes(mlp(64, 64), shapes)


class Headed(nn.Module):
    """A hidden layer and a head of a kind that is not a readout."""

    def __init__(self, width, make_head):
        super().__init__()
        self.word = nn.Embedding(11, width)
        self.head = make_head(width, self.word.weight)


def tied_linear(width, weight):
    head = nn.Linear(width, 11)
    head.weight = weight
    return head


FORGOTTEN_HEADS = {
    "linear": (lambda width, _: nn.Linear(width, 3), r"head \(Linear\).*MuReadout"),
    "convolution": (lambda width, _: nn.Conv2d(width, 3, 1), r"head \(Conv2d\).*MuReadout"),
    "tied linear": (tied_linear, r"head \(Linear\).*MuSharedReadout"),
    "transposed": (lambda width, _: nn.ConvTranspose2d(width, 3, 2), r"head \(ConvTranspose2d\)"),
}


@pytest.mark.parametrize("kind", FORGOTTEN_HEADS)
def test_a_head_that_is_not_a_readout_is_named(kind):
    make_head, message = FORGOTTEN_HEADS[kind]
    with pytest.raises(ValueError, match=message):
        set_base_shapes(Headed(64, make_head), Headed(16, make_head))


@pytest.mark.parametrize(
    "make_module",
    [
        lambda width: nn.Linear(3, width),
        lambda width: nn.Conv2d(width, width, 3),
        lambda width: nn.ConvTranspose2d(width, width, 3),
        lambda width: nn.ConvTranspose2d(3, width, 3),
        lambda width: nn.Conv2d(width, width, 3, groups=width),
        lambda width: nn.Conv2d(width, width, 3, groups=4),
        lambda width: nn.MultiheadAttention(width, 2),
        lambda width: nn.EmbeddingBag(7, width),
    ],
)
def test_modules_that_do_not_end_in_a_finite_dimension_pass(make_module):
    model = set_base_shapes(make_module(64), make_module(16))
    assert {s.role() for s in get_infshapes(model).values()} <= {"input", "hidden"}


def test_three_dimensions_that_scale_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^0\.weight: 3 dimensions"):
        set_base_shapes(nn.Sequential(nn.Bilinear(8, 8, 8)), nn.Sequential(nn.Bilinear(4, 4, 4)))


class Experts(nn.Module):
    """Three matrices in one parameter."""

    def __init__(self, fan_out, fan_in):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, fan_out, fan_in))


def test_a_stack_of_matrices_is_refused_by_name_unless_both_widths_scale_alike():
    model = set_base_shapes(Experts(32, 16), Experts(8, 4))
    assert model.weight.infshape.role() == "hidden"
    with pytest.raises(ValueError, match=r"^weight: .* which one is the fan-in"):
        set_base_shapes(Experts(32, 32), Experts(8, 4))


def test_a_model_without_base_shapes_is_refused():
    with pytest.raises(ValueError, match=r"MLP has parameters without base shapes: input\.weight"):
        get_infshapes(mlp(16, 16))
    with pytest.raises(ValueError, match=r"parameter \(16, 8\) has no base shape"):
        infshape_of(mlp(16, 16).input.weight)


def test_a_parameter_added_later_is_named():
    model = set_base_shapes(mlp(64, 64), mlp(16, 16))
    model.adapter = nn.Linear(3, 3, bias=False)
    with pytest.raises(ValueError, match=r"without base shapes: adapter\.weight;"):
        get_infshapes(model)


def test_the_registry_survives_copies_assignment_and_wrappers():
    model = set_base_shapes(Transformer(mupkit, 64, 96), Transformer(mupkit, 16, 24))
    expected = get_infshapes(model)
    assert get_infshapes(copy.deepcopy(model)) == expected
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert not hasattr(model.word.weight, "infshape")
    assert get_infshapes(model) == expected
    wrapped = nn.ModuleDict({"module": model, "cnn": set_base_shapes(CNN(mupkit, 8, 8), None)})
    shapes = get_infshapes(wrapped)
    assert {name: shapes[f"module.{name}"] for name in expected} == expected
    assert "cnn.conv.weight" in shapes


@pytest.mark.parametrize(
    "make_readout",
    [
        lambda weight: mupkit.MuSharedReadout(weight),
        lambda weight: assigned(mupkit.MuReadout(weight.shape[1], weight.shape[0]), weight),
    ],
    ids=["MuSharedReadout", "assigned"],
)
def test_a_tied_embedding_appears_once_and_keeps_its_initialization(make_readout):
    model = Tied(64, make_readout)
    before = data_of(model)
    set_base_shapes(model, Tied(16, make_readout), delta=Tied(17, make_readout))
    assert model.readout.weight is model.word.weight
    tied = [name for name, p in model.named_parameters() if p is model.word.weight]
    assert tied == ["word.weight"]
    assert torch.equal(model.word.weight, before["word.weight"])
    assert torch.equal(model.readout.bias, 2 * before["readout.bias"])
    assert model.readout.width_mult() == 4
    assert get_infshapes(model)["word.weight"].role() == "input"
    assert math.isclose(model.word.weight.std().item(), 1, rel_tol=0.1)


def assigned(readout, weight):
    readout.weight = weight
    return readout
