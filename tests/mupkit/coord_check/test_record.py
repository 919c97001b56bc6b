"""What is measured, of which models, in which precision."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mupkit
from mupkit.coord_check.record import record, rms, train_step
from tests.mupkit.coord_check import cases
from tests.mupkit.models import CNN, batch

X, LABELS = batch("mlp")


def measure(build=cases.mlp, widths=(32, 64), make_optimizer=cases.mu_adam, **options):
    options = {"loss": cases.mlp_loss, "steps": 2, "seeds": [3], **options}
    return record(build, widths, make_optimizer=make_optimizer, **options)


@pytest.fixture(scope="module")
def rows():
    return measure()


def test_every_tensor_at_every_step(rows):
    found = {(r.kind, r.tensor, r.step) for r in rows if r.width == 32}
    modules = ("input", "hidden", "readout", "(output)")
    params = [f"{m}.{p}" for m in modules[:3] for p in ("weight", "bias")]
    assert found == {
        *(("activation", m, t) for m in modules for t in (0, 1, 2)),
        *(("change", m, t) for m in modules for t in (1, 2)),
        *(("update", p, t) for p in params for t in (1, 2)),
    }
    assert len(rows) == 2 * len(found)
    assert {r.seed for r in rows} == {3}


def test_the_values_are_those_of_a_training_by_hand(rows):
    torch.manual_seed(3)
    model = cases.mlp(64).double()
    x = X.double()
    start, weight = model.input(x), model.input.weight.detach().clone()
    optimizer = cases.mu_adam(model)
    values = {(r.kind, r.tensor, r.step): r.value for r in rows if r.width == 64}
    assert values["activation", "input", 0] == pytest.approx(start.square().mean().sqrt().item())
    train_step(model, optimizer, lambda m: F.cross_entropy(m(x), LABELS))
    change, update = model.input(x) - start, model.input.weight - weight
    assert values["change", "input", 1] == pytest.approx(change.square().mean().sqrt().item())
    assert values["update", "input.weight", 1] == pytest.approx(
        update.square().mean().sqrt().item()
    )


def test_finite_tensors_are_those_of_one_shape(rows):
    finite = {r.tensor for r in rows if r.finite}
    assert finite == {"readout", "(output)", "readout.bias"}


def test_updates_come_with_their_theory(rows):
    expected = {r.tensor: r.expected for r in rows if r.width == 64 and r.kind == "update"}
    assert expected["hidden.weight"] == -1
    assert expected["readout.weight"] == 0
    assert {r.expected for r in rows if r.kind != "update"} == {None}


def test_batch_normalization_is_not_disturbed():
    x, labels = batch("cnn")

    def build(channels):
        base, delta = CNN(mupkit, 8, 16), CNN(mupkit, 9, 17)
        return mupkit.set_base_shapes(CNN(mupkit, channels, 2 * channels), base, delta=delta)

    def loss(model):
        return F.cross_entropy(model(x), labels)

    trained = []

    def make_optimizer(model):
        trained.append(model)
        return cases.mu_adam(model)

    record(build, [8, 16], make_optimizer=make_optimizer, loss=loss, steps=3, seeds=[0], dtype=None)
    for channels, recorded in zip((8, 16), trained, strict=True):
        torch.manual_seed(0)
        model = build(channels)
        optimizer = cases.mu_adam(model)
        for _ in range(3):
            train_step(model, optimizer, loss)
        for name, value in model.state_dict().items():
            assert torch.equal(recorded.state_dict()[name], value), name


def test_random_numbers_of_training_are_not_disturbed():
    def noisy(model):
        return cases.mlp_loss(nn.Sequential(nn.Dropout(0.5), model))

    def final(look):
        torch.manual_seed(3)
        model = cases.mlp(64)
        trained = []
        if look:
            measure(
                lambda width: trained.append(cases.mlp(width)) or trained[-1],
                loss=noisy,
                dtype=None,
            )
            return trained[-1].input.weight
        optimizer = cases.mu_adam(model)
        for _ in range(2):
            train_step(model, optimizer, noisy)
        return model.input.weight

    assert torch.equal(final(True), final(False))


def test_models_are_checked_in_double_precision_unless_told():
    seen = set()

    def loss(model):
        seen.add(model(X).dtype)
        return cases.mlp_loss(model)

    measure(loss=loss)
    assert seen == {torch.float64}
    seen.clear()
    measure(loss=loss, dtype=None)
    assert seen == {torch.float32}


def test_rms_leaves_out_what_is_masked():
    x = torch.tensor([3.0, -math.inf, 4.0, -1e30])
    assert rms(x, x < -1e8) == pytest.approx(math.sqrt(12.5))
    assert rms(x[1:2], x[1:2] < 0) == 0
    assert math.isnan(rms(torch.tensor([1.0, math.nan])))


def test_masked_logits_count_without_their_mask():
    """The logits of a causal model: the mask's -inf neither counts nor makes the change nan."""
    found = record(
        partial(cases.transformer),
        [32, 64],
        make_optimizer=cases.mu_adam,
        loss=cases.transformer_loss,
        steps=1,
        seeds=[0],
    )
    values = [r.value for r in found if r.tensor == "attention.softmax"]
    assert len(values) == 6
    assert all(0 < v < 100 for v in values)


@pytest.mark.parametrize("wrong", [{"widths": [32, 32]}, {"seeds": []}, {"steps": 0}])
def test_too_little_to_check(wrong):
    with pytest.raises(ValueError, match="two widths, a seed and a step"):
        measure(**wrong)


def test_models_that_differ_in_more_than_width():
    def build(width):
        return nn.Sequential(*[nn.Linear(8, 8) for _ in range(width)])

    with pytest.raises(ValueError, match="2 is missing at width 2"):
        measure(build, [2, 3], cases.plain_adam)


class Single(nn.Linear):
    """A layer that refuses double precision, as some fused operations do."""

    def forward(self, x):
        if x.dtype == torch.float64:
            raise RuntimeError("expected Float")
        return super().forward(x)


def test_a_model_that_refuses_double_precision_is_told_what_to_do():
    def build(width):
        model = Single(8, width)
        return mupkit.parametrize(model, nn.Linear(8, 32))

    with pytest.raises(RuntimeError, match="expected Float") as caught:
        measure(build, loss=lambda model: model(X).square().mean())
    (note,) = caught.value.__notes__
    assert note == "it runs in its own type: say dtype=None instead of torch.float64"
    measure(build, loss=lambda model: model(X).square().mean(), dtype=None)
    with pytest.raises(RuntimeError, match="shapes") as caught:
        measure(loss=lambda model: model(X.T).square().mean())
    assert not hasattr(caught.value, "__notes__")


def test_the_input_of_a_module_is_known(rows):
    sources = {r.tensor: r.source for r in rows if r.kind == "activation" and r.step == 0}
    assert sources["input"] == sources["(output)"] == pytest.approx(rms(X))
    values = {r.tensor: r.value for r in rows if r.kind == "activation" and r.step == 0}
    assert sources["readout"] < values["hidden"]  # through ReLU
