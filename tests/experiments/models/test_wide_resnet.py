"""The wide ResNet: torchvision's dimensions, SP and µP, width-independence in µP."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import mupkit
from experiments.models.wide_resnet import (
    WideResNet,
    WideResNetOptions,
    WideResNetShape,
    build_wide_resnet,
)
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
BASE, WIDTHS, FEW = 4, (8, 16, 32, 64), (4, 8, 16, 32)  # channels of the stem
LR = 0.05
ONE_EACH = (1, 1, 1, 1)
OPTIONS = WideResNetOptions(CLASSES, blocks=ONE_EACH, small_images=True)
RANDOM = WideResNetOptions(CLASSES, blocks=ONE_EACH, small_images=True, zero_readout=False)


def shape(width: int) -> WideResNetShape:
    return WideResNetShape.of(width / 64)


def build(width: int, options: WideResNetOptions = OPTIONS) -> WideResNet:
    return build_wide_resnet(shape(width), options, shape(BASE))


def sp(width: int, options: WideResNetOptions = OPTIONS) -> WideResNet:
    return build_wide_resnet(shape(width), options, None)


def test_at_one_it_has_the_parameters_of_torchvisions() -> None:
    with torch.device("meta"):
        model = build_wide_resnet(
            WideResNetShape.of(1), WideResNetOptions(), WideResNetShape.of(0.125)
        )
    assert sum(p.numel() for p in model.parameters()) == 68_883_240
    assert len(model.blocks) == 16
    state = {n: tuple(p.shape) for n, p in model.named_parameters()}
    assert state["stem.conv.weight"] == (64, 3, 7, 7)
    assert state["blocks.0.shortcut.conv.weight"] == (256, 64, 1, 1)
    assert state["blocks.15.down.conv.weight"] == (1024, 2048, 1, 1)
    assert state["blocks.15.middle.conv.weight"] == (1024, 1024, 3, 3)
    assert state["blocks.15.up.conv.weight"] == (2048, 1024, 1, 1)
    assert state["readout.weight"] == (1000, 2048)


def test_every_dimension_scales_with_the_width_multiplier() -> None:
    assert WideResNetShape.of(0.125) == WideResNetShape(8, (16, 32, 64, 128), (32, 64, 128, 256))
    with pytest.raises(ValueError, match=r"0\.64 channels"):
        WideResNetShape.of(0.01)


@pytest.mark.parametrize(
    ("small", "size", "sizes"), [(False, 224, [56, 28, 14, 7]), (True, 64, [64, 32, 16, 8])]
)
def test_stages_halve_the_image_after_the_first(small, size, sizes) -> None:
    seen = []
    with torch.device("meta"):
        options = WideResNetOptions(small_images=small)
        model = build_wide_resnet(WideResNetShape.of(0.125), options, None)
        for block in model.blocks:
            block.register_forward_hook(lambda m, args, y: seen.append(tuple(y.shape)))
        assert model(torch.empty(2, 3, size, size)).shape == (2, 1000)
    channels = [32] * 3 + [64] * 4 + [128] * 6 + [256] * 3
    edges = [sizes[0]] * 3 + [sizes[1]] * 4 + [sizes[2]] * 6 + [sizes[3]] * 3
    assert seen == [(2, c, e, e) for c, e in zip(channels, edges, strict=True)]


@pytest.mark.parametrize("small", [False, True])
def test_it_computes_bottlenecks_with_the_stride_in_the_middle(small) -> None:
    options = WideResNetOptions(
        CLASSES, blocks=(1, 2, 1, 1), small_images=small, output_mult=4.0, zero_readout=False
    )
    model = seeded(lambda: build(2 * BASE, options))
    state = model.state_dict()

    def conv(x, name, stride=1):
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        gain, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
        return F.batch_norm(x, None, None, gain, bias, training=True)

    images_BCHW, _ = batch(16 if small else 64)
    x = conv(images_BCHW, "stem", 1 if small else 2).relu()
    if not small:
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    for i, (stride, project) in enumerate([(1, True), (2, True), (1, False), (2, True), (2, True)]):
        block = f"blocks.{i}"
        y = conv(x, f"{block}.down").relu()
        y = conv(conv(y, f"{block}.middle", stride).relu(), f"{block}.up")
        x = (y + (conv(x, f"{block}.shortcut", stride) if project else x)).relu()
    expected = 4 / 2 * x.mean((2, 3)) @ state["readout.weight"].T
    torch.testing.assert_close(model(images_BCHW), expected)


def test_blocks_with_zero_gains_start_as_the_identity() -> None:
    options = WideResNetOptions(
        CLASSES, blocks=(1, 2, 1, 1), small_images=True, zero_readout=False, zero_gain=True
    )
    model = seeded(lambda: build(2 * BASE, options))
    x_BCHW = torch.rand(2, 16 * BASE, 4, 4)
    assert torch.equal(model.blocks[2](x_BCHW), x_BCHW)
    projected = torch.relu(model.blocks[0].shortcut(x_BCHW[:, : 2 * BASE]))
    assert torch.equal(model.blocks[0](x_BCHW[:, : 2 * BASE]), projected)
    gains = {n for n, p in model.named_parameters() if n.endswith("norm.weight") and not p.any()}
    assert gains == {f"blocks.{i}.up.norm.weight" for i in range(5)}
    losses = train(model, SIZE, steps=8)
    assert losses[-1] < losses[0]


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
    rates = by_name(model, mupkit.MuSGD(model, lr=1.0), "lr")
    adam_rates = by_name(model, mupkit.MuAdam(model, lr=1.0), "lr")
    assert model.readout.width_mult() == ratio
    for name, role in roles.items():
        if name == "readout.weight":
            expected = ("output", ratio, 1)
        elif name == "readout.bias":
            expected = ("scalar", 1, 1)
        elif name == "stem.conv.weight" or ".norm." in name:
            expected = ("input", ratio, 1)
        else:
            assert name.endswith("conv.weight"), name
            expected = ("hidden", 1, 1 / ratio)
        assert (role, rates[name], adam_rates[name]) == expected, name


@pytest.mark.parametrize("mup", [False, True])
def test_initial_std_is_one_over_the_root_of_the_fan_in(mup) -> None:
    options = WideResNetOptions(
        1000, blocks=(1, 2, 1, 1), init_std=0.5, small_images=True, zero_readout=False
    )
    model = seeded(lambda: (build if mup else sp)(4 * BASE, options))
    readout_fan_in = 32 * (BASE if mup else 4 * BASE)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            fan_in = readout_fan_in if name == "readout.weight" else p[0].numel()
            assert p.std().item() == pytest.approx(0.5 / fan_in**0.5, rel=0.1), name
        else:
            assert (p == (0 if name.endswith("bias") else 1)).all(), name


def test_channels_last_gives_the_same_losses() -> None:
    one, other = (seeded(lambda: build(2 * BASE, RANDOM)) for _ in range(2))
    other = other.to(memory_format=torch.channels_last)
    losses = train(one, SIZE)
    assert train(other, SIZE, memory_format=torch.channels_last) == pytest.approx(losses, rel=1e-3)


def test_evaluation_uses_running_statistics() -> None:
    model = seeded(lambda: build(2 * BASE, RANDOM))
    images_BCHW, _ = batch(SIZE)
    model(images_BCHW)
    model.eval()
    torch.testing.assert_close(model(images_BCHW[:1]), model(images_BCHW)[:1])
    state = copy.deepcopy(model.state_dict())
    model(images_BCHW)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    before = model(images_BCHW)
    model.stem.norm.running_mean += 1
    assert not torch.allclose(model(images_BCHW), before)


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
    report = check(build, WIDTHS, SIZE, sgd(LR), range(4), dtype=None, images=32)
    assert report.passed, report


def plain_readout(width: int) -> WideResNet:
    """The readout as a plain layer in SP: N(0, 1/fan_in), no multiplier."""
    model = build(width)
    model.readout.set_width_mult(1.0)
    torch.nn.init.normal_(model.readout.weight, std=(32 * width) ** -0.5)
    return model


def forgotten(width: int) -> WideResNet:
    """The delta model does not vary the inner channels of the third stage."""
    other = shape(BASE).all_different()
    inner = (*other.inner[:2], shape(BASE).inner[2], other.inner[3])
    model = WideResNet(shape(width), OPTIONS)
    with torch.device("meta"):
        base = WideResNet(shape(BASE), OPTIONS)
        delta = WideResNet(WideResNetShape(other.stem, inner, other.outer), OPTIONS)
    with pytest.raises(ValueError, match=r"blocks\.2\.down\.conv .* finite dimension"):
        mupkit.set_base_shapes(model, base, delta=delta, rescale_params=False)
    mupkit.parametrize(model, base, delta, rules=mupkit.TABLE_8, rescale_params=False)
    model.init_weights()
    return model


MISTAKES = {
    "SP": (sp, sgd(LR), {("update", "readout.weight"): 1, ("change", "readout"): 1}),
    "plain readout": (
        *(plain_readout, sgd(LR / 10)),
        {("update", "readout.weight"): 2, ("change", "readout"): 1},
    ),
    "rate of the first convolution": (
        *(build, unscaled(sgd(LR), LR, "stem.conv.weight")),
        {("update", "stem.conv.weight"): -1},
    ),
    "rate of a gain": (
        *(build, unscaled(sgd(LR), LR, "blocks.2.up.norm.weight")),
        {("update", "blocks.2.up.norm.weight"): -1},
    ),
    "width forgotten in one block": (
        *(forgotten, sgd(LR)),
        {("update", "blocks.2.middle.norm.bias"): -1},
    ),
}


@pytest.mark.filterwarnings("ignore:these dimensions differ")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are(mistake) -> None:
    wrong, make_optimizer, expected = MISTAKES[mistake]
    report = check(wrong, FEW, SIZE, make_optimizer, range(3), dtype=None)
    found = failures(report)
    for place, exponent in expected.items():
        assert found.get(place) == pytest.approx(exponent, abs=0.5), report
