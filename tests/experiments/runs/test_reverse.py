"""Reverse µTransfer: which narrow run replays a wide one, what is recorded, the command."""

import math

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import mupkit
from experiments.analysis import instability
from experiments.analysis.instability import blow_ups
from experiments.cli import main, train
from experiments.declare import registry
from experiments.declare.config import RunConfig
from experiments.declare.family import Family
from experiments.errors import UserError
from experiments.families.transformer_wikitext2.task import LanguageModeling, build
from experiments.runs import places, reverse
from experiments.train import engine
from experiments.train.process import Machine
from mupkit import get_infshapes
from tests.tiny_runs import TINY, tiny_run

MACHINE = Machine("cpu", 1, "highest")
FAMILY = "transformer_wikitext2"


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


# Which narrow run it is


def sp(**changes):
    return tiny_run(parametrization="sp", **changes)


FAMILIES = [name for name, one in registry.exhibits().items() if isinstance(one, Family)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("parametrization", ["sp", "mup"])
def test_only_width_and_what_it_is_measured_by_change(family, parametrization) -> None:
    chosen = registry.family(family)
    values = {**chosen.example, "width": 256, "parametrization": parametrization}
    wide = chosen.config.make(**values, data=next(iter(chosen.data_sources)))
    narrow = wide.narrowed(8)
    changed = {k for k, v in wide if getattr(narrow, k) != v and not k.startswith("base_")}
    assert (narrow.parametrization, narrow.width) == ("mup", 8)
    assert narrow.base_width == (256 if parametrization == "sp" else wide.base_width)
    given = {dim for dim in ("d_head", "d_k", "d_ffn") if getattr(wide, dim, None) is not None}
    of_sp = {"parametrization"} if parametrization == "sp" else set()
    assert changed == {"width"} | given | of_sp


def test_given_dimensions_scale_and_heads_stay() -> None:
    given = {"width": 64, "n_head": 2, "d_head": 24, "d_k": 16, "d_ffn": 100}
    narrow = {"d_model": 16, "n_head": 2, "d_head": 6, "d_k": 4, "d_ffn": 25}
    of_sp, of_mup = sp(**given).narrowed(16), tiny_run(**given, base_d_k=7).narrowed(16)
    assert of_sp.dims() == of_mup.dims() == narrow
    wide = {"d_model": 64, "n_head": 2, "d_head": 24, "d_k": 16, "d_ffn": 100}
    assert of_sp.dims(base=True) == wide
    assert of_mup.dims(base=True) == tiny_run(**given, base_d_k=7).dims(base=True)
    assert of_mup.base_d_k == 7


def test_bases_that_sp_ignores_are_not_taken_over() -> None:
    wide = sp(width=64, base_width=8, base_n_head=1, base_d_head=3, base_d_k=5, base_d_ffn=7)
    assert wide.narrowed(16).id == sp(width=64).narrowed(16).id


@pytest.mark.parametrize("given", [{}, {"n_head": 2, "d_head": 24, "d_k": 16, "d_ffn": 100}])
def test_the_model_is_narrow_and_its_base_is_the_wide_run(given) -> None:
    wide = sp(width=64, attn_mult=3.0, **given)
    model = build(wide.narrowed(16))
    shapes, large = get_infshapes(model), dict(build(wide).named_parameters())
    for name, _ in model.named_parameters():
        base = [d.base_dim or d.dim for d in shapes[name]]
        assert base == list(large[name].shape), name
    for name in ("query.weight", "value.weight", "out.weight"):
        infshape = shapes[f"blocks.0.attention.{name}"]
        assert [d.width_mult() for d in infshape] == [0.25, 0.25]
    assert model.readout.width_mult() == 0.25
    d_k = wide.dims()["d_k"]
    expected = math.sqrt(d_k) / (d_k / 4) * 3.0
    assert model.blocks[0].attention.scale == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [{}, {"zero_readout": False, "attn_mult": 3.0, "output_mult": 4.0, "d_k": 6}, {"tied": True}],
)
def test_as_narrow_as_the_wide_run_itself_the_losses_are_its_own(tiny, changes) -> None:
    wide = sp(width=32, log2lr=-6.0, **changes)
    narrow = wide.narrowed(32)
    assert narrow.parametrization == "mup"
    own, replayed = (engine.train(c, LanguageModeling(c), MACHINE).losses for c in (wide, narrow))
    assert own == replayed
    assert len(set(own)) == 5


def test_between_sp_and_mup_nothing_is_replayed() -> None:
    family = registry.family("mlp_cifar10")
    make = family.config.make
    values = {**family.example, "data": "digits", "width": 128}
    of_sp = make(**{**values, "parametrization": "sp"}).narrowed(8)
    for unused in (0.0, 0.5):
        assert make(**{**values, "parametrization": "sp", "t": unused}).narrowed(8) == of_sp
    assert make(**{**values, "parametrization": "mup", "t": 0.0}).narrowed(8).id == of_sp.id
    with pytest.raises(UserError, match=r"t: 0\.5 cannot be replayed narrow"):
        make(**{**values, "parametrization": "mup", "t": 0.5}).narrowed(8)


def test_narrow_wider_than_wide_names_the_key_and_the_fix() -> None:
    with pytest.raises(UserError, match=r"narrow: 64 is wider .* 32; give --narrow 32 or less"):
        tiny_run().narrowed(64)


# The recording


class Noisy:
    """A task with running statistics, dropout and a layer that autocast concerns."""

    fingerprint = "none"

    def __init__(self, losses=()):
        self.script = dict(losses)
        self.step = -1

    def build(self):
        layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)
        return mupkit.set_base_shapes(nn.Sequential(*layers), None)

    def batches(self, device):
        generator = torch.Generator().manual_seed(0)
        while True:
            self.step += 1
            yield self.step, torch.randn(8, 6, generator=generator)

    def loss(self, model, batch):
        step, x = batch
        return 0.1 * (model(x).float() ** 2).mean() + self.script.get(step, 1.0)

    def evaluate(self, model):
        return {"mean": float(model(torch.ones(2, 6)).mean())}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_recorder_changes_no_bit(tiny, precision) -> None:
    config = tiny_run(steps=7, precision=precision, log2lr=-5.0)
    for make in (lambda: LanguageModeling(config), lambda: Noisy({3: 3.0})):
        plain = engine.train(config, make(), MACHINE)
        for every in (1, 3):
            seen = []
            replayed = reverse.record(
                config, make(), MACHINE, every, lambda *step, seen=seen: seen.append(step)
            )
            assert replayed.result.losses == plain.losses
            assert replayed.result.metrics == plain.metrics
            assert seen == list(enumerate(plain.losses))
        assert len(set(plain.losses)) == 7


def recorded(replayed: reverse.Replay) -> list[int]:
    return sorted(replayed.trace.dropna(subset="tensor")["step"].unique())


def test_steps_and_activations_that_are_recorded(tiny) -> None:
    config = sp(steps=7).narrowed(16)
    replayed = reverse.record(config, LanguageModeling(config), MACHINE, every=3)
    assert recorded(replayed) == [0, 3, 6]
    table = replayed.trace
    assert list(table.columns) == ["step", "tensor", "size", "loss"]
    assert tuple(table.groupby("step")["loss"].first()) == replayed.result.losses
    tensors = set(table["tensor"].dropna())
    assert {"word", "readout", "blocks.1.attention.softmax", "blocks.0.feed_forward.up"} <= tensors
    sizes = table.dropna(subset="tensor")["size"]
    assert sizes.map(math.isfinite).all()  # without what attention masks
    start = table[table["step"] == 0].set_index("tensor")["size"]
    torch.manual_seed(0)
    model = build(config)
    tokens = next(LanguageModeling(config).batches("cpu"))[:, :-1]
    assert start["word"] == pytest.approx(model.word(tokens).square().mean().sqrt().item())
    assert start["readout"] == 0


def test_it_is_the_step_s_own_batch_and_model(tiny) -> None:
    config = sp(steps=4, zero_readout=False).narrowed(16)
    task = LanguageModeling(config)
    expected = []

    class Watched(LanguageModeling):
        def loss(self, model, batch):
            if torch.is_grad_enabled():
                expected.append(model(batch[:, :-1]).square().mean().sqrt().item())
            return task.loss(model, batch)

    replayed = reverse.record(config, Watched(config), MACHINE, every=1)
    sizes = replayed.trace.set_index(["tensor", "step"])["size"]
    assert list(sizes["(output)"]) == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == 4


def test_the_last_steps_before_a_jump_and_a_divergence_are_recorded() -> None:
    config = tiny_run(steps=60, log2lr=-20.0)
    script = {24: 1.7, 25: 2.5, 50: math.nan}  # of losses that are 1.0 and a little
    replayed = reverse.record(config, Noisy(script), MACHINE, every=20)
    assert replayed.result.diverged_step == 50
    assert recorded(replayed) == sorted({0, 20, 40, *range(16, 26), *range(41, 51)})
    calm = reverse.record(config, Noisy(), MACHINE, every=20)
    assert recorded(calm) == [0, 20, 40]


def test_the_last_steps_are_measured_as_they_would_have_been() -> None:
    config = tiny_run(steps=30, precision="bfloat16")
    all_of_them, last = (
        reverse.record(config, Noisy({25: 3.0}), MACHINE, every).trace.dropna(subset="tensor")
        for every in (1, 20)
    )
    both = last.merge(all_of_them, on=["step", "tensor"])
    assert len(both) == len(last)
    assert list(both["size_x"]) == list(both["size_y"])


# The command

WIDE = {**TINY, "width": 64, "steps": 12, "parametrization": "sp"}


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """The command on a wide run of these values, with its results in a folder of the test."""
    monkeypatch.setattr(places, "ROOT", tmp_path)

    def run(*more, **changes):
        given = {**WIDE, **changes}
        values = {k: v for k, v in given.items() if k not in ("data", "base_width")}
        words = [word for k, v in values.items() for word in (f"--{k}", str(v))]
        args = ["reverse", FAMILY, *words, "--data", "wikitext2", *more]
        return CliRunner().invoke(main.app, args, env={"COLUMNS": "200"}, catch_exceptions=True)

    return run


def test_an_absurd_rate_diverges_and_names_an_activation(run, tmp_path) -> None:
    done = run("--narrow", "16", "--scale", "smoke", log2lr=3)
    assert done.exit_code == 0, done.exception
    assert "sp width 64 log2lr 3 seed 0, replayed at width 16" in done.stdout
    assert "the run diverged at step" in done.stdout
    first = done.stdout.split("growth")[1].split()
    assert first[0] in {"readout", "(output)"} | {
        name for name, _ in build(sp(width=16)).named_modules()
    }
    assert first[1].isdigit()
    family = registry.family(FAMILY)
    wide = family.config.make(**{**family.example, **WIDE, "log2lr": 3.0})
    path = tmp_path / "results" / "smoke" / "reverse" / f"{wide.narrowed(16).id}.parquet"
    assert {p.name for p in path.parent.iterdir()} == {path.name, f"{path.stem}.png"}
    assert str(path) in done.stdout
    table = pd.read_parquet(path)
    assert list(table.columns) == ["step", "tensor", "size", "loss"]
    assert blow_ups(table)["tensor"][0] == first[0]
    instability.draw(table)


def test_a_calm_run_and_a_narrow_width_by_default(run, monkeypatch) -> None:
    monkeypatch.setattr(train, "BLOW_UP_ROWS", 4)
    done = run(log2lr=-12)
    assert done.exit_code == 0, done.exception
    assert "replayed at width 32: the loss never jumped" in done.stdout  # the example's base
    table = done.stdout.split("growth")[1].split("blew up:")[0].strip()
    assert [row.split()[-2] for row in table.splitlines()] == ["-"] * 4


def test_what_it_refuses(run) -> None:
    wider = run("--narrow", "128")
    assert isinstance(wider.exception, UserError)
    assert "narrow: 128 is wider than the run's width, 64" in str(wider.exception)
    assert "did you mean 'width'" in str(run("--widht", "3").exception)


def test_every_family_has_a_default_width() -> None:
    for exhibit in registry.exhibits().values():
        if hasattr(exhibit, "example"):
            assert issubclass(exhibit.config, RunConfig)
            assert exhibit.example["base_width"] > 0
