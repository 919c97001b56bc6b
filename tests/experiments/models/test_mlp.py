"""The MLP: the paper's equations, SP and µP and what lies between, width-independence in µP."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

import mupkit
from experiments.families.mlp_cifar10.spec import RELU, TANH, TANH_MSE
from experiments.models.mlp import (
    INPUTS,
    OUTPUTS,
    FirstLayer,
    Mlp,
    MlpOptions,
    MlpShape,
    build_mlp,
)
from mupkit import SP, TABLE_3, TABLE_8, TABLE_9
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

SIZE = 4
BASE, WIDTHS = 32, (64, 128, 256, 512)
LR = 0.5
OPTIONS = MlpOptions(3 * SIZE * SIZE, CLASSES, bias=True, zero_readout=False)


def changed(**changes) -> MlpOptions:
    return MlpOptions(**{**vars(OPTIONS), **changes})


def build(width: int, options: MlpOptions = OPTIONS, t: float = 1.0, rules=TABLE_8) -> Mlp:
    return build_mlp(MlpShape(width), options, MlpShape(BASE), t, rules)


def sp(width: int, options: MlpOptions = OPTIONS) -> Mlp:
    return build_mlp(MlpShape(width), options, None)


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("bias", [False, True])
def test_it_has_two_hidden_layers_and_no_bias_at_the_output(bias) -> None:
    with torch.device("meta"):
        model = build_mlp(MlpShape(8192), MlpOptions(3072, 10, bias=bias), MlpShape(128))
    weights = 3072 * 8192 + 8192**2 + 8192 * 10
    assert sum(p.numel() for p in model.parameters()) == weights + 2 * 8192 * bias


def test_the_papers_defaults() -> None:
    model = build(64, MlpOptions(48, CLASSES))
    assert [name for name, _ in model.named_parameters()] == [
        f"{layer}.weight" for layer in ("input", "hidden", "readout")
    ]
    assert not model(batch(SIZE)[0]).any()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_it_computes_the_papers_equation(activation) -> None:
    options = changed(activation=activation, input_mult=0.25, output_mult=3.0)
    model = seeded(lambda: build(4 * BASE, options))
    for layer in (model.input, model.hidden):
        torch.nn.init.normal_(layer.bias)
    images_BCHW, _ = batch(SIZE)
    phi = getattr(torch, activation)
    x_BI = images_BCHW.reshape(len(images_BCHW), -1)
    x_BD = phi((x_BI @ model.input.weight.T + model.input.bias) / 2)
    x_BD = phi(x_BD @ model.hidden.weight.T + model.hidden.bias)
    y_BK = 3 / 4 * x_BD @ model.readout.weight.T
    torch.testing.assert_close(model(images_BCHW), y_BK)


@pytest.mark.parametrize("options", [OPTIONS, MlpOptions(48, CLASSES, "tanh", output_mult=32.0)])
@pytest.mark.parametrize("t", [0.3, 1.0])
def test_at_base_width_sp_and_mup_are_bitwise_equal(options, t) -> None:
    one, other = seeded(lambda: sp(BASE, options)), seeded(lambda: build(BASE, options, t))
    assert same_weights(one, other)
    assert train(one, SIZE) == train(other, SIZE)
    assert same_weights(one, other)


def test_one_is_table_8_bit_for_bit() -> None:
    def by_hand() -> Mlp:
        model, base, delta = (Mlp(MlpShape(w), OPTIONS) for w in (3 * BASE, BASE, 2 * BASE))
        mupkit.set_base_shapes(model, base, delta=delta, rescale_params=False)
        torch.manual_seed(0)
        model.init_weights()
        return model

    def built() -> Mlp:
        with torch.device("meta"):
            model = build(3 * BASE)
        assert mupkit.get_rules(model) is TABLE_8
        model = build(3 * BASE)
        torch.manual_seed(0)
        model.init_weights()
        return model

    one, other = by_hand(), built()
    assert same_weights(one, other)
    assert train(one, SIZE) == train(other, SIZE)
    assert same_weights(one, other)


def test_zero_is_sp_bit_for_bit_and_what_it_tends_to(double) -> None:
    one, zero = seeded(lambda: sp(3 * BASE)), seeded(lambda: build(3 * BASE, t=0.0))
    nearly = seeded(lambda: build(3 * BASE, t=1e-9))
    assert same_weights(one, zero)
    losses = train(one, SIZE)
    assert losses == train(zero, SIZE)
    assert losses == pytest.approx(train(nearly, SIZE), rel=1e-6)
    assert losses != pytest.approx(train(seeded(lambda: build(3 * BASE)), SIZE), rel=1e-2)


@pytest.mark.parametrize("t", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("rules", [TABLE_3, TABLE_9], ids=lambda rules: rules.name)
def test_every_formulation_trains_the_same_function_at_every_t(double, rules, t) -> None:
    options = changed(output_mult=2.0, input_mult=0.5)
    eight, other = (
        seeded(lambda rules=x: build(4 * BASE, options, t, rules)) for x in (TABLE_8, rules)
    )
    assert not same_weights(eight, other)
    assert train(eight, SIZE, steps=20) == pytest.approx(train(other, SIZE, steps=20), rel=1e-10)


@pytest.mark.parametrize("t", [0.0, 0.25, 1.0])
def test_rates_of_table_3_and_initialization_go_with_the_power_of_width_that_t_says(t) -> None:
    ratio = 16
    model = seeded(lambda: build(ratio * BASE, t=t, rules=TABLE_3))
    lr = by_name(model, mupkit.MuSGD(model, lr=1.0), "lr")
    assert lr == pytest.approx(
        {
            "input.weight": ratio**t,
            "input.bias": ratio**t,
            "hidden.weight": 1,
            "hidden.bias": ratio**t,
            "readout.weight": ratio**-t,
        }
    )
    fan_in = ratio * BASE
    assert model.input.weight.std().item() == pytest.approx(48**-0.5, rel=0.03)
    assert model.hidden.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.03)
    expected = fan_in**-0.5 * ratio ** (-t / 2)
    assert model.readout.weight.std().item() == pytest.approx(expected, rel=0.05)


def test_rates_and_initialization_of_table_8() -> None:
    ratio = 16
    model = seeded(lambda: build(ratio * BASE, changed(init_std=0.5, input_mult=4.0)))
    lr = by_name(model, mupkit.MuSGD(model, lr=1.0), "lr")
    assert lr == {n: 1 if n == "hidden.weight" else ratio for n in lr}
    assert model.readout.width_mult() == ratio
    assert model.input.weight.std().item() == pytest.approx(0.25 * 48**-0.5, rel=0.03)
    assert model.hidden.weight.std().item() == pytest.approx(0.5 / 512**0.5, rel=0.03)
    assert model.readout.weight.std().item() == pytest.approx(0.5 / BASE**0.5, rel=0.05)
    assert not model.input.bias.any()


def test_the_input_multiplier_is_one_of_the_first_layers_rate(double) -> None:
    """And leaves the function at initialization as it is."""
    mult, lr = 2.0**-3, 0.05
    options = changed(bias=False)

    def rate_times_mult(model):
        rest = [p for n, p in model.named_parameters() if n != "input.weight"]
        groups = [{"params": rest}, {"params": [model.input.weight], "lr": lr * mult}]
        return mupkit.MuSGD(groups, lr=lr, momentum=0.9)

    plain = seeded(lambda: build(2 * BASE, options))
    scaled = seeded(lambda: build(2 * BASE, changed(bias=False, input_mult=mult)))
    expected = train(plain, SIZE, steps=10, make_optimizer=rate_times_mult)
    assert train(scaled, SIZE, steps=10, lr=lr) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("preset", [RELU, TANH, TANH_MSE])
def test_the_examples_multipliers_train(preset) -> None:
    options = MlpOptions(48, CLASSES, **{k: v for k, v in preset.items() if k != "loss"})
    losses = train(seeded(lambda: build(64, options)), SIZE, steps=20, lr=0.01)
    assert losses[-1] < losses[0] == pytest.approx(torch.tensor(float(CLASSES)).log().item())


def test_copies_and_functional_calls_compute_the_same() -> None:
    model = seeded(lambda: build(2 * BASE, t=0.5))
    images_BCHW, _ = batch(SIZE)
    twin = copy.deepcopy(model)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    called = torch.func.functional_call(
        seeded(lambda: build(2 * BASE, t=0.5)), weights, images_BCHW
    )
    assert torch.equal(model(images_BCHW), called)
    assert torch.equal(model(images_BCHW), twin(images_BCHW))
    assert train(model, SIZE) == train(twin, SIZE)


@pytest.mark.parametrize("options", [OPTIONS, changed(activation="tanh", zero_readout=True)])
def test_nothing_depends_on_width_in_mup(options) -> None:
    report = check(partial(build, options=options), WIDTHS, SIZE, sgd(LR), range(8))
    assert report.passed, report


def plain_readout(width: int) -> Mlp:
    """The readout as a plain layer in SP: N(0, 1/fan_in), no multiplier."""
    model = build(width)
    model.readout.set_width_mult(1.0)
    torch.nn.init.normal_(model.readout.weight, std=width**-0.5)
    return model


def multiplied_twice(width: int) -> Mlp:
    model = build(width)
    model.readout.set_width_mult((width / BASE) ** 2)
    return model


def parametrized_twice(width: int) -> Mlp:
    """`set_base_shapes` takes the weights for torch's and rescales what the builder drew."""
    model = build(width)
    base, delta = (Mlp(MlpShape(w), OPTIONS) for w in (BASE, 2 * BASE))
    return mupkit.set_base_shapes(model, base, delta=delta)


MISTAKES = {
    "SP": (sp, sgd(LR), {("update", "readout.weight"): 1, ("change", "readout"): 0.5}),
    "halfway": (partial(build, t=0.5), sgd(LR), {("update", "readout.weight"): 0.5}),
    "plain readout": (
        *(plain_readout, sgd(LR / 50)),
        {("update", "readout.weight"): 2, ("change", "readout"): 1.5},
    ),
    "rate of the input layer": (
        *(build, unscaled(sgd(LR), LR, "input.weight")),
        {("update", "input.weight"): -1},
    ),
    "rates of the biases": (
        *(build, unscaled(sgd(LR), LR, "input.bias", "hidden.bias")),
        {("update", "input.bias"): -1, ("update", "hidden.bias"): -1},
    ),
    "multiplied twice": (multiplied_twice, sgd(LR), {("change", "readout"): -2}),
    "parametrized twice": (parametrized_twice, sgd(LR), {("update", "hidden.weight"): 0.5}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_where_they_are(mistake) -> None:
    wrong, make_optimizer, expected = MISTAKES[mistake]
    report = check(wrong, WIDTHS, SIZE, make_optimizer, range(5))
    found = failures(report)
    for place, exponent in expected.items():
        assert found.get(place) == pytest.approx(exponent, abs=0.5), report


def test_the_ends_of_the_interpolation_are_the_tables() -> None:
    assert mupkit.interpolate(SP, TABLE_8, 0) is SP
    assert mupkit.interpolate(SP, TABLE_8, 1) is TABLE_8


@pytest.mark.parametrize(
    ("inputs", "outputs", "bias", "own"),
    [
        (INPUTS, OUTPUTS, False, True),
        (INPUTS, OUTPUTS, True, False),
        (INPUTS - 1, OUTPUTS, False, False),
        (INPUTS, OUTPUTS - 1, False, False),
    ],
)
def test_the_first_layer_has_torchs_outputs_and_gradients(inputs, outputs, bias, own) -> None:
    torch.manual_seed(0)
    layer, x = FirstLayer(inputs, outputs, bias), torch.randn(64, inputs)
    upstream = torch.randn(64, outputs)
    found, wanted = layer(x), F.linear(x, layer.weight, layer.bias)
    assert ("Clone" in found.grad_fn.name()) == own
    assert found.is_contiguous()
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(y, layer.weight, upstream)[0] for y in (found, wanted))
    assert ours.stride() == theirs.stride()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
