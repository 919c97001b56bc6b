"""ResNet-9: the original's dimensions and function, SP and µP, width-independence in µP."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import mupkit
from experiments.models.resnet import ResNet, ResNetOptions, ResNetShape, build_resnet
from tests.experiments.models.images import (
    CLASSES,
    batch,
    check,
    failures,
    same_weights,
    seeded,
    sgd,
    train,
)
from tests.mupkit.coord_check.cases import unscaled
from tests.mupkit.models import by_name

SIZE = 8
BASE, WIDTHS, FEW = 4, (8, 16, 32, 64), (4, 8, 16, 32)  # channels of the first convolution
LR = 0.1
OPTIONS = ResNetOptions(CLASSES, logit_scale=1.0)
RANDOM = ResNetOptions(CLASSES, logit_scale=1.0, zero_readout=False)
CONVOLUTIONS = (
    *("prep", "layer1.conv", "layer1.residual.0", "layer1.residual.1", "layer2.conv"),
    *("layer3.conv", "layer3.residual.0", "layer3.residual.1"),
)


def shape(width: int) -> ResNetShape:
    return ResNetShape.of(width / 64)


def build(width: int, options: ResNetOptions = OPTIONS) -> ResNet:
    return build_resnet(shape(width), options, shape(BASE))


def sp(width: int, options: ResNetOptions = OPTIONS) -> ResNet:
    return build_resnet(shape(width), options, None)


@pytest.mark.parametrize("width_mult", [0.125, 0.5, 1, 8])
def test_it_has_the_originals_parameters(width_mult) -> None:
    with torch.device("meta"):
        model = build_resnet(ResNetShape.of(width_mult), ResNetOptions(), ResNetShape.of(1))
    p, a, b, c = (int(width_mult * n) for n in (64, 128, 256, 512))
    weights = 9 * (3 * p + p * a + 2 * a * a + a * b + b * c + 2 * c * c) + 10 * c
    gains_and_biases = 2 * (p + 3 * a + b + 3 * c)
    assert sum(q.numel() for q in model.parameters()) == weights + gains_and_biases
    assert width_mult != 1 or weights + gains_and_biases == 6_573_120


def test_channels_are_whole_numbers() -> None:
    assert ResNetShape.of(0.125).channels == (8, 16, 32, 64)
    with pytest.raises(ValueError, match=r"0\.64 channels"):
        ResNetShape.of(0.01)


@pytest.mark.parametrize("size", [8, 32, 40])
def test_it_computes_the_originals_function(size) -> None:
    options = ResNetOptions(CLASSES, output_mult=4.0, zero_readout=False)
    model = seeded(lambda: build(2 * BASE, options))
    state = model.state_dict()

    def conv(x, name):
        x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1)
        weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
        return F.batch_norm(x, None, None, weight, bias, training=True).relu()

    def residual(x, name):
        return x + conv(conv(x, f"{name}.residual.0"), f"{name}.residual.1")

    images_BCHW, _ = batch(size)
    x = residual(F.max_pool2d(conv(conv(images_BCHW, "prep"), "layer1.conv"), 2), "layer1")
    x = F.max_pool2d(conv(x, "layer2.conv"), 2)
    x = residual(F.max_pool2d(conv(x, "layer3.conv"), 2), "layer3")
    expected = 0.125 * 4 / 2 * x.amax((2, 3)) @ state["readout.weight"].T
    torch.testing.assert_close(model(images_BCHW), expected)


@pytest.mark.parametrize("options", [OPTIONS, RANDOM])
def test_at_base_width_sp_and_mup_are_bitwise_equal(options) -> None:
    one, other = seeded(lambda: sp(BASE, options)), seeded(lambda: build(BASE, options))
    assert same_weights(one, other)
    losses = train(one, SIZE)
    assert losses == train(other, SIZE)
    assert same_weights(one, other)
    assert losses != train(seeded(lambda: build(2 * BASE, options)), SIZE)


def test_roles_and_rates() -> None:
    ratio = 4
    model = build(ratio * BASE)
    roles = {n: s.role() for n, s in mupkit.get_infshapes(model).items()}
    assert roles["readout.weight"] == "output"
    assert roles["prep.conv.weight"] == "input"
    assert model.readout.width_mult() == ratio
    sgd_rates = by_name(model, mupkit.MuSGD(model, lr=1.0), "lr")
    adam_rates = by_name(model, mupkit.MuAdam(model, lr=1.0), "lr")
    assert sgd_rates["readout.weight"] == ratio
    assert adam_rates["readout.weight"] == 1
    for name in CONVOLUTIONS:
        hidden = name != "prep"
        assert roles[f"{name}.conv.weight"] == ("hidden" if hidden else "input")
        assert sgd_rates[f"{name}.conv.weight"] == (1 if hidden else ratio)
        assert adam_rates[f"{name}.conv.weight"] == (1 / ratio if hidden else 1)
        for vector in ("weight", "bias"):
            assert roles[f"{name}.norm.{vector}"] == "input"
            assert sgd_rates[f"{name}.norm.{vector}"] == ratio
            assert adam_rates[f"{name}.norm.{vector}"] == 1
    assert len(roles) == 3 * len(CONVOLUTIONS) + 1


@pytest.mark.parametrize("mup", [False, True])
def test_initial_std_is_one_over_the_root_of_all_nine_fan_ins(mup) -> None:
    options = ResNetOptions(1000, init_std=0.5, zero_readout=False)
    model = seeded(lambda: (build if mup else sp)(8 * BASE, options))
    readout_fan_in = 8 * (BASE if mup else 8 * BASE)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            fan_in = readout_fan_in if name == "readout.weight" else p[0].numel()
            assert p.std().item() == pytest.approx(0.5 / fan_in**0.5, rel=0.05), name
        else:
            assert (p == (0 if name.endswith("bias") else 1)).all(), name


def test_channels_last_gives_the_same_losses() -> None:
    one, other = (seeded(lambda: build(2 * BASE, RANDOM)) for _ in range(2))
    other = other.to(memory_format=torch.channels_last)
    losses = train(one, SIZE)
    assert train(other, SIZE, memory_format=torch.channels_last) == pytest.approx(losses, rel=1e-3)
    weight = other.layer2.conv.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert mupkit.get_infshapes(other) == mupkit.get_infshapes(one)


def test_evaluation_uses_running_statistics() -> None:
    model = seeded(lambda: build(2 * BASE, RANDOM))
    images_BCHW, _ = batch(4 * SIZE)
    fresh = model.state_dict()["prep.norm.running_var"].clone()
    for _ in range(200):
        model(images_BCHW)
    assert not torch.equal(model.state_dict()["prep.norm.running_var"], fresh)
    trained = model(images_BCHW)
    model.eval()
    torch.testing.assert_close(model(images_BCHW), trained, rtol=0.05, atol=0.01)  # n / (n - 1)
    torch.testing.assert_close(model(images_BCHW[:1]), model(images_BCHW)[:1])
    state = copy.deepcopy(model.state_dict())
    model(images_BCHW)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_copies_and_functional_calls_compute_the_same() -> None:
    model = seeded(lambda: build(2 * BASE, RANDOM)).eval()
    images_BCHW, _ = batch(SIZE)
    twin, other = copy.deepcopy(model), build(2 * BASE, RANDOM).eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    called = torch.func.functional_call(other, state, images_BCHW)
    assert torch.equal(model(images_BCHW), called)
    assert torch.equal(model(images_BCHW), twin(images_BCHW))
    assert train(model.train(), SIZE) == train(twin.train(), SIZE)


@pytest.mark.slow
def test_nothing_depends_on_width_in_mup() -> None:
    report = check(build, WIDTHS, SIZE, sgd(LR), range(8), dtype=None)
    assert report.passed, report


def plain_readout(width: int) -> ResNet:
    """The readout as a plain layer in SP: N(0, 1/fan_in), no multiplier."""
    model = build(width)
    model.readout.set_width_mult(1.0)
    torch.nn.init.normal_(model.readout.weight, std=(8 * width) ** -0.5)
    return model


def parametrized_twice(width: int) -> ResNet:
    """`set_base_shapes` takes the weights for torch's and rescales what the builder drew."""
    model = build(width, RANDOM)
    with torch.device("meta"):
        base, delta = (ResNet(shape(w), RANDOM) for w in (BASE, 2 * BASE))
    return mupkit.set_base_shapes(model, base, delta=delta)


def forgotten(width: int) -> ResNet:
    """The delta model does not vary the channels of the second layer."""
    prep, layer1, layer2, layer3 = shape(BASE).channels
    model = ResNet(shape(width), OPTIONS)
    with torch.device("meta"):
        base = ResNet(shape(BASE), OPTIONS)
        delta = ResNet(ResNetShape((prep + 1, layer1 + 1, layer2, layer3 + 1)), OPTIONS)
    with pytest.raises(ValueError, match=r"layer2\.conv\.conv .* finite dimension"):
        mupkit.set_base_shapes(model, base, delta=delta, rescale_params=False)
    mupkit.parametrize(model, base, delta, rules=mupkit.TABLE_8, rescale_params=False)
    model.init_weights()
    return model


MISTAKES = {
    "SP": (sp, sgd(LR / 2), {("update", "readout.weight"): 1, ("change", "readout"): 1}),
    "plain readout": (
        *(plain_readout, sgd(LR / 10)),
        {("update", "readout.weight"): 2, ("change", "readout"): 1},
    ),
    "rate of the first convolution": (
        *(build, unscaled(sgd(LR), LR, "prep.conv.weight")),
        {("update", "prep.conv.weight"): -1},
    ),
    "rate of a gain": (
        *(build, unscaled(sgd(LR), LR, "layer1.residual.0.norm.weight")),
        {("update", "layer1.residual.0.norm.weight"): -1},
    ),
    "rate of a bias": (
        *(build, unscaled(sgd(LR), LR, "layer3.conv.norm.bias")),
        {("update", "layer3.conv.norm.bias"): -1},
    ),
    "width forgotten in one layer": (forgotten, sgd(LR), {("update", "layer2.conv.norm.bias"): -1}),
    "parametrized twice": (parametrized_twice, sgd(LR), {("update", "layer3.conv.norm.bias"): 0.5}),
}


@pytest.mark.filterwarnings("ignore:these dimensions differ")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are(mistake) -> None:
    wrong, make_optimizer, expected = MISTAKES[mistake]
    report = check(wrong, FEW, SIZE, make_optimizer, range(6), dtype=None)
    found = failures(report)
    for place, exponent in expected.items():
        assert found.get(place) == pytest.approx(exponent, abs=0.5), report


def test_where_mistakes_are_found_a_right_model_has_no_failure() -> None:
    for options in (OPTIONS, RANDOM):
        report = check(partial(build, options=options), FEW, SIZE, sgd(LR), range(6), dtype=None)
        assert not report.failures, report
