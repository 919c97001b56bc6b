"""The training loop: divergence, determinism, schedules, pairing."""

import inspect
import itertools
import math
from functools import partial
from itertools import islice
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.amp import GradScaler

import mupkit
from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.declare.references import load
from experiments.declare.schedules import OPEN_ENDED, SCHEDULES
from experiments.errors import UserError
from experiments.families.transformer_wikitext2.task import LanguageModeling
from experiments.train import engine
from experiments.train.process import Machine
from experiments.train.schedules import lr_factor, lr_factors
from mupkit.messages import RatioError
from tests.tiny_runs import tiny_run

MACHINE = Machine("cpu", 1, "highest")


class Scripted:
    """A task whose loss is what the script says, with a gradient for one weight."""

    fingerprint = "none"

    def __init__(self, losses):
        self.losses = iter(losses)

    def build(self):
        return mupkit.set_base_shapes(nn.Linear(1, 1), None)

    def batches(self, device):
        while True:
            yield None

    def loss(self, model, batch):
        value = next(self.losses)
        return 0.0 * model.weight.sum() + torch.tensor(value)

    def evaluate(self, model):
        assert not model.training and not torch.is_grad_enabled()
        return {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([2.0, 1.0, math.nan, 1.0, 1.0], 2),
        ([2.0, math.inf, 1.0, 1.0, 1.0], 1),
        ([2.0, 19.9, 20.1, 1.0, 1.0], 2),
        ([math.nan, 1.0, 1.0, 1.0, 1.0], 0),
        ([math.inf, math.inf, 1.0, 1.0, 1.0], 0),
        ([2.0, -math.inf, 1.0, 1.0, 1.0], 1),
        ([2.0, 1.0, 1.0, 1.0, math.nan], 4),
        ([2.0, 1.0, 1.0, 1.0, 20.1], 4),
    ],
)
def test_divergence_ends_a_run_and_is_a_result(losses, step) -> None:
    result = engine.train(tiny_run(), Scripted(losses), MACHINE)
    assert result.diverged_step == step
    assert len(result.losses) == step + 1
    assert math.isnan(result.final_loss)


class Poisoned:
    """A regression whose gradient, not its loss, is `value` at one step."""

    fingerprint = "none"

    def __init__(self, at, value):
        self.at, self.value, self.step = at, value, -1

    def build(self):
        self.model = mupkit.set_base_shapes(nn.Linear(3, 1), None)
        return self.model

    def batches(self, device):
        while True:
            yield torch.randn(4, 3)

    def loss(self, model, batch):
        self.step += 1
        out = model(batch)
        if self.step == self.at:
            out.register_hook(lambda grad: grad * self.value)
        return (out**2).mean() + 1

    def evaluate(self, model):
        return {}


OPTIMIZERS = {
    "adam": {},
    "adam, clipped": {"grad_clip": 1.0},
    "sgd": {"optimizer": "sgd"},
    "momentum, clipped": {"optimizer": "sgd", "momentum": 0.9, "grad_clip": 1.0},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_diverges_at_the_next_loss(optimizer, value) -> None:
    result = engine.train(tiny_run(**OPTIMIZERS[optimizer]), Poisoned(2, value), MACHINE)
    assert result.diverged_step == 3
    assert len(result.losses) == 4
    assert all(map(math.isfinite, result.losses[:3]))
    assert math.isnan(result.final_loss)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_last_update_that_is_not_finite_diverges(optimizer, value) -> None:
    task = Poisoned(4, value)
    result = engine.train(tiny_run(**OPTIMIZERS[optimizer]), task, MACHINE)
    assert result.diverged_step == 4
    assert len(result.losses) == 5
    assert all(map(math.isfinite, result.losses))
    assert math.isnan(result.final_loss)


class Measured(Scripted):
    """A task that is validated after every second step; the third time it is not finite."""

    epoch = 2

    def __init__(self, losses):
        super().__init__(losses)
        self.seen = iter([3.5, 3.0, math.inf])

    def loss(self, model, batch):
        assert model.training
        return super().loss(model, batch)

    def validate(self, model):
        assert not model.training and not torch.is_grad_enabled()
        return next(self.seen)


def test_held_out_data_are_measured_at_the_end_of_each_epoch() -> None:
    result = engine.train(tiny_run(steps=7), Measured([1.0] * 7), MACHINE)
    assert result.valid_losses == {1: 3.5, 3: 3.0}
    assert engine.train(tiny_run(steps=5), Scripted([1.0] * 5), MACHINE).valid_losses == {}


def test_a_task_may_train_itself() -> None:
    class Elsewhere(Scripted):
        def train(self, on_step):
            return engine.RunResult((1.0,), None, 1.0, 2.0)

    assert engine.train(tiny_run(), Elsewhere([]), MACHINE).losses == (1.0,)
    with pytest.raises(UserError, match="another program trains this run"):
        engine.train(tiny_run(), Elsewhere([]), MACHINE, hold=lambda *args: engine.Held(*args))


def test_what_is_measured_at_the_end_is_not_of_a_run_that_diverged() -> None:
    assert engine.train(tiny_run(), Scripted([1.0] * 5), MACHINE).metrics == {"accuracy": 0.5}
    assert engine.train(tiny_run(), Scripted([1.0, math.nan]), MACHINE).metrics == {}
    assert engine.train(tiny_run(), Poisoned(4, math.nan), MACHINE).metrics == {}


def test_bfloat16_is_of_products_alone_and_by_request(tiny) -> None:
    exact, rounded = tiny_run(steps=3), tiny_run(steps=3, precision="bfloat16")
    seen = []

    class Watched(LanguageModeling):
        def loss(self, model, batch):
            seen.append(model(batch[:, :-1]).dtype)
            seen.append({p.dtype for p in model.parameters()})
            return super().loss(model, batch)

    one = engine.train(exact, Watched(exact), MACHINE).losses
    assert set(map(str, seen)) == {"torch.float32", "{torch.float32}"}
    seen.clear()
    other = engine.train(rounded, Watched(rounded), MACHINE).losses
    assert set(map(str, seen)) == {"torch.bfloat16", "{torch.float32}"}
    assert exact.id != rounded.id and exact.id == tiny_run(steps=3, precision="float32").id
    assert one != other and one == pytest.approx(other, rel=1e-2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_float16_leaves_out_an_update_that_overflows(optimizer, monkeypatch) -> None:
    scaler = partial(GradScaler, "cpu", 64.0)  # at which nothing overflows by itself
    monkeypatch.setattr(engine, "loss_scaler", lambda config, machine: scaler())

    class Watched(Poisoned):
        def loss(self, model, batch):
            seen.append(model.weight.detach().clone())
            return super().loss(model, batch)

    for at in (0, 2, 4):  # the first one, where a momentum begins, and the last one
        seen = []
        config = tiny_run(**OPTIMIZERS[optimizer], precision="float16")
        result = engine.train(config, task := Watched(at, math.inf), MACHINE)
        assert result.diverged_step is None
        seen.append(task.model.weight.detach())
        kept = [torch.equal(before, after) for before, after in itertools.pairwise(seen)]
        assert kept == [step == at for step in range(5)]


def test_float16_diverges_where_no_scale_helps() -> None:
    class Hopeless(Poisoned):
        def loss(self, model, batch):
            self.at = self.step + 1
            return super().loss(model, batch)

    few, many = (tiny_run(steps=steps, precision="float16") for steps in (5, 40))
    assert engine.train(few, Hopeless(0, math.inf), MACHINE).diverged_step is None
    assert engine.train(many, Hopeless(0, math.inf), MACHINE).diverged_step == 39


def test_float16_is_near_float32(tiny) -> None:
    exact, rounded = tiny_run(steps=6), tiny_run(steps=6, precision="float16")
    one, other = (engine.train(c, LanguageModeling(c), MACHINE).losses for c in (exact, rounded))
    assert one != other and one == pytest.approx(other, rel=1e-2)
    assert exact.id != rounded.id


def test_what_spoils_a_model() -> None:
    model = mupkit.set_base_shapes(nn.Linear(2, 1), None)
    assert not engine.spoiled(model)
    model.weight.grad = torch.tensor([[1.0, math.nan]])
    assert engine.spoiled(model)
    model.weight.grad = None
    with torch.no_grad():
        model.weight[0, 1] = -math.inf
    assert engine.spoiled(model)


def test_a_whole_run_of_finite_numbers_is_fine() -> None:
    result = engine.train(tiny_run(), Poisoned(-1, 0.0), MACHINE)
    assert result.diverged_step is None
    assert math.isfinite(result.final_loss)


def test_final_loss_is_the_mean_of_the_last_tenth() -> None:
    losses = [float(20 - i) for i in range(20)]
    result = engine.train(tiny_run(steps=20), Scripted(losses), MACHINE)
    assert result.diverged_step is None
    assert result.final_loss == pytest.approx((2 + 1) / 2)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_same_configuration_same_bits(tiny, optimizer) -> None:
    config = tiny_run(optimizer=optimizer, log2lr=-5)
    first, second = (engine.train(config, LanguageModeling(config), MACHINE) for _ in range(2))
    assert first.losses == second.losses
    assert len(set(first.losses)) == len(first.losses)


@pytest.mark.parametrize(
    ("optimizer", "changes"),
    [("adam", {}), ("sgd", {}), ("sgd", {"weight_decay": 0.1}), ("sgd", {"momentum": 0.9})],
)
def test_losses_are_those_of_a_plain_loop_bit_for_bit(tiny, optimizer, changes) -> None:
    config = tiny_run(optimizer=optimizer, log2lr=-5, **changes)
    task = LanguageModeling(config)
    torch.manual_seed(config.seed)
    model = task.build()
    updates, losses = engine.make_optimizer(model, config), []
    for batch in islice(task.batches("cpu"), config.steps):
        logits = model(batch[:, :-1]).flatten(0, 1)
        loss = F.cross_entropy(logits, batch[:, 1:].flatten())
        losses.append(loss.item())
        updates.zero_grad()
        loss.backward()
        updates.step()
    assert engine.train(config, task, MACHINE).losses == tuple(losses)


def test_sgd_leaves_parameters_without_a_gradient_and_refuses_rates_that_lost_their_ratio(
    tiny,
) -> None:
    config = tiny_run(optimizer="sgd", parametrization="mup")
    model = LanguageModeling(config).build()
    optimizer, off = engine.make_optimizer(model, config), GradScaler(enabled=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine.apply_gradients(model, optimizer, None, off)
    model.readout.weight.grad = torch.ones_like(model.readout.weight)
    engine.apply_gradients(model, optimizer, None, off)
    moved = [name for name, p in model.named_parameters() if not torch.equal(p, before[name])]
    assert moved == ["readout.weight"]
    optimizer.param_groups[0]["lr"] *= 2
    with pytest.raises(RatioError):
        engine.apply_gradients(model, optimizer, None, off)


@pytest.mark.parametrize("changes", [{}, {"norm": "pre"}, {"tied": True}, {"bias": True}])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_at_base_width_mup_is_sp_bit_for_bit(tiny, changes, optimizer) -> None:
    changes = {**changes, "optimizer": optimizer, "width": 16, "output_mult": 2.0}
    curves = []
    for parametrization in ("sp", "mup"):
        config = tiny_run(parametrization=parametrization, **changes)
        curves.append(engine.train(config, LanguageModeling(config), MACHINE).losses)
    assert curves[0] == curves[1]


def test_weight_decay_of_adamw_is_no_part_of_the_gradient() -> None:
    model = nn.Linear(3, 2, bias=False)
    mupkit.set_base_shapes(model, None)
    before = model.weight.detach().clone()
    config = tiny_run(optimizer="adamw", weight_decay=0.5, log2lr=-3)
    optimizer = engine.make_optimizer(model, config)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.step()
    torch.testing.assert_close(model.weight, before * (1 - 2**-3 * 0.5))


def test_above_base_width_mup_is_not_sp(tiny) -> None:
    curves = []
    for parametrization in ("sp", "mup"):
        config = tiny_run(parametrization=parametrization)
        curves.append(engine.train(config, LanguageModeling(config), MACHINE).losses)
    assert curves[0][0] == curves[1][0]  # a zero readout makes every first loss log V
    assert curves[0][1:] != curves[1][1:]


def test_all_runs_of_a_seed_see_the_same_batches(tiny) -> None:
    batches = []
    for changes in ({}, {"width": 64}, {"log2lr": -3}, {"parametrization": "sp"}, {"seed": 1}):
        config = tiny_run(**changes)
        stream = LanguageModeling(config).batches("cpu")
        batches.append(torch.stack([next(stream) for _ in range(3)]))
    for other in batches[1:-1]:
        assert torch.equal(batches[0], other)
    assert not torch.equal(batches[0], batches[-1])


def test_batches_are_windows_of_the_text_and_all_of_it_in_an_epoch(tiny) -> None:
    config = tiny_run()
    task = LanguageModeling(config)
    stream = task.batches("cpu")
    windows = (len(task.tokens) - 1) // config.seq_len
    epoch = torch.cat([next(stream) for _ in range(windows // config.batch_size)])
    assert epoch.shape == (len(epoch), config.seq_len + 1)
    starts = {tuple(w.tolist()) for w in epoch}
    text = {
        tuple(task.tokens[i * config.seq_len : (i + 1) * config.seq_len + 1].tolist())
        for i in range(windows)
    }
    assert starts <= text
    assert len(epoch) > windows - config.batch_size


def test_gradient_clipping_changes_sgd(tiny) -> None:
    losses = []
    for clip in (None, 1e-3):
        config = tiny_run(optimizer="sgd", log2lr=-2, grad_clip=clip)
        losses.append(engine.train(config, LanguageModeling(config), MACHINE).losses)
    assert losses[0] != losses[1]
    assert losses[1][-1] == pytest.approx(losses[1][0], abs=0.05)


# Factors by the paper's caption of Fig. 4, at steps of 10,000.
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 1, 9999: 1}),
        ("linear", {0: 1, 5000: 0.5, 9000: 0.1}),
        ("cosine", {0: 1, 5000: 0.5, 10000: 0}),
        ("step_a", {4999: 1, 5000: 0.1, 7999: 0.1, 8000: 0.01}),
        ("step_b", {3999: 1, 4000: 0.3, 6999: 0.3, 7000: 0.09}),
        ("inv_sqrt", {0: 1, 1: 1, 4: 0.5, 100: 0.1}),
    ],
)
def test_schedules(schedule, expected) -> None:
    for step, factor in expected.items():
        assert lr_factor(schedule, step, 10000) == pytest.approx(factor, abs=1e-12), step


def test_warmup_is_linear_and_continuous() -> None:
    assert [lr_factor("constant", s, 100, warmup=4) for s in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert lr_factor("inv_sqrt", 16, 100, warmup=16) == 1
    assert lr_factor("inv_sqrt", 64, 100, warmup=16) == 0.5


@pytest.mark.parametrize("schedule", get_args(RunConfig.model_fields["schedule"].annotation))
@pytest.mark.parametrize("warmup", [0, 5])
def test_open_ended_schedules_do_not_depend_on_the_number_of_steps(schedule, warmup) -> None:
    short, long = (
        [lr_factor(schedule, step, steps, warmup) for step in range(20)] for steps in (20, 1000)
    )
    assert (short == long) == (schedule in OPEN_ENDED)


def test_tasks_do_not_look_at_the_number_of_steps() -> None:
    for exhibit in registry.exhibits().values():
        if isinstance(exhibit, Family):
            source = inspect.getsource(inspect.getmodule(load(exhibit.config.task, exhibit.name)))
            assert ".steps" not in source, exhibit.name


def test_schedule_keeps_the_ratios_of_mup(tiny, monkeypatch) -> None:
    seen = []
    make = engine.make_optimizer

    def spy(model, config):
        optimizer = make(model, config)
        step = optimizer.step

        def record():
            seen.append([(g["lr_mult"], g["lr"]) for g in optimizer.param_groups])
            return step()

        optimizer.step = record
        return optimizer

    monkeypatch.setattr(engine, "make_optimizer", spy)
    config = tiny_run(schedule="linear", width=64)
    engine.train(config, LanguageModeling(config), MACHINE)
    assert {mult for mult, _ in seen[0]} == {1.0, 0.25}
    for step, groups in enumerate(seen):
        for mult, lr in groups:
            assert lr == pytest.approx(2**-7 * mult * (1 - step / 5))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_called_idle_of_a_warm_up_and_a_schedule_gives_the_same_rates(schedule) -> None:
    for steps, warmup in ((5, 1), (1, 0), (4, 4), (4, 9)):
        given = {"schedule": schedule, "steps": steps, "warmup": warmup}
        run = tiny_run().model_copy(update=given)
        for key in run.idle().keys() & given.keys():
            default = type(run).model_fields[key].default
            assert lr_factors(run.model_copy(update={key: default})) == lr_factors(run)


def test_adamw_without_decay_is_adam(tiny) -> None:
    """So that runs of the two have one id."""
    runs = [tiny_run(optimizer=name) for name in ("adam", "adamw")]
    losses = [engine.train(run, LanguageModeling(run), MACHINE).losses for run in runs]
    assert losses[0] == losses[1]
