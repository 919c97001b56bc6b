"""Algorithm 1 as a tool: spaces, searches, what is said of them, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import optuna
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mupkit
from mupkit import transfer
from mupkit.__main__ import main
from mupkit.transfer import Distribution, Problem

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"lr": Distribution(low=1e-4, high=1.0, log=True), "mult": Distribution(values=(0.5, 1, 2))}


class Net(nn.Module):
    def __init__(self, width, mult):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        self.readout, self.mult = nn.Linear(width, 3), mult

    def forward(self, x):
        return self.mult * self.readout(self.layers(x))


def build(width, mult=1.0):
    return Net(width, mult)


X, Y = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3


def loss(model, step):
    rows = torch.arange(16 * step, 16 * step + 16) % 64
    return F.cross_entropy(model(X[rows].to(next(model.parameters()).dtype)), Y[rows])


def problem(**options):
    given = {"proxy": {"width": 16}, "target": {"width": 64}, "steps": 10, **options}
    return Problem(given.pop("build", build), given.pop("loss", loss), **given)


GOOD = """
[lr]
low = 1e-4
high = 1
log = true

[mult]
values = [0.5, 1, 2]
"""


def test_a_space_is_read(tmp_path):
    (tmp_path / "space.toml").write_text(GOOD)
    assert transfer.read_space(tmp_path / "space.toml") == SPACE


BAD = {
    "": "has no hyperparameter",
    "lr = ": "is no TOML",
    "lr = 3": r"\[lr\] is 3, expected a table",
    "[lr]\nlow = 1": r"\[lr\]: high is None, expected a number",
    "[lr]\nlow = 'a'\nhigh = 2": r"\[lr\]: low is 'a'",
    "[lr]\nlow = 2\nhigh = 1": r"low is 2 and high 1, expected low < high",
    "[lr]\nlow = 0\nhigh = 1\nlog = true": r"expected 0 < low < high with log",
    "[lr]\nlow = 0\nhigh = 1\nvalues = [1]": "either values, or low and high",
    "[lr]\nvalues = []": r"values is \[\], expected a list of some",
    "[lr]\nlo = 1\nhigh = 2": "lo is unknown; there are",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_space_is_refused_with_file_and_key(text, tmp_path):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(ValueError, match=BAD[text]) as caught:
        transfer.read_space(tmp_path / "space.toml")
    assert "space.toml" in str(caught.value)


def test_the_proxy_is_the_base_and_the_target_in_mup():
    given = problem()
    proxy, target = (given.model(sizes, {"mult": 2}) for sizes in (given.proxy, given.target))
    assert {shape.role() for shape in mupkit.get_infshapes(target).values()} == {
        "input",
        "hidden",
        "output",
        "scalar",
    }
    assert target.mult == 2
    rates = [{g["lr"] for g in mupkit.MuAdam(m, lr=1.0).param_groups} for m in (proxy, target)]
    assert rates == [{1.0}, {1.0, 0.25}]


def test_a_search_is_repeatable_and_leaves_the_random_numbers_alone():
    state = torch.random.get_rng_state()
    first, second = (transfer.search(problem(), SPACE, 6, seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [t.params for t in first.trials] == [t.params for t in second.trials]
    assert [t.value for t in first.trials] == [t.value for t in second.trials]
    found = transfer.summary(problem(), first)
    assert found.losses == sorted(found.losses)
    assert found.losses[0] == first.best_value
    assert found.best[0] == first.best_params
    assert found.trials == 6


def test_a_search_goes_on_where_it_was(tmp_path):
    storage = f"sqlite:///{tmp_path}/s.db"
    for trials, expected in ((3, 3), (5, 5), (4, 5)):
        study = transfer.search(problem(), SPACE, trials, storage=storage)
        assert len(study.trials) == expected


def test_several_processes_work_at_one_search(tmp_path):
    storage = f"sqlite:///{tmp_path}/s.db"
    study = optuna.create_study(storage=storage, study_name="mupkit")
    study.ask()  # one of another process, which is not done
    found = transfer.search(problem(), SPACE, 4, storage=storage)
    states = [trial.state for trial in found.trials]
    assert states.count(optuna.trial.TrialState.RUNNING) == 1
    assert len(states) == 5


def test_what_diverges_counts_and_never_wins():
    def exploding(model, step):
        bad = model.mult != 1
        return loss(model, step) * (math.nan if bad and step == 3 else 1)

    study = transfer.search(problem(loss=exploding), SPACE, 20, seed=0)
    found = transfer.summary(problem(loss=exploding), study)
    assert found.diverged > 0
    assert {point["mult"] for point in found.best} == {1}
    only = {"lr": SPACE["lr"], "mult": Distribution(values=(2,))}
    with pytest.raises(ValueError, match="all 3 trials diverged: lower the rates"):
        transfer.search(problem(loss=exploding), only, 3)
    growing = problem(loss=lambda model, step: loss(model, step) * 20**step)
    assert transfer.train(growing, {"width": 16}, {"lr": 0.01}).loss == math.inf


def test_a_loss_of_one_argument_is_of_the_same_batch():
    seen = []

    def fixed(model, scale=1.0):
        seen.append(scale)
        return loss(model, 0)

    transfer.train(problem(loss=fixed), {"width": 16}, {"lr": 0.01})
    assert seen == [1.0] * 10


def test_what_is_minimized():
    given = problem(validate=lambda model: 7.0 if model.training else 5.0)
    assert transfer.train(given, {"width": 16}, {"lr": 0.01}).loss == 5.0
    without = transfer.train(problem(steps=20), {"width": 16}, {"lr": 0.0})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(16)
    last = [loss(model, step).item() for step in (18, 19)]
    assert without.loss == pytest.approx(sum(last) / 2)


def test_the_target_is_trained_with_the_best_points():
    points = [{"lr": 1e-5, "mult": 1}, {"lr": 0.02, "mult": 1}]
    runs = transfer.at_target(problem(steps=30), points, seeds=(0, 1))
    assert [run.point for run in runs] == points
    assert all(len(run.losses) == 2 for run in runs)
    assert transfer.regret(runs) == pytest.approx(runs[0].loss - runs[1].loss)
    assert transfer.regret(runs) > 0
    assert transfer.regret(runs[::-1]) == 0


def test_a_build_that_parametrizes_itself_is_taken_as_it_is():
    def own(width, mult=1.0):
        with torch.device("meta"):
            base = Net(8, mult)
        return mupkit.set_base_shapes(Net(width, mult), base, do_assert=False)

    given = problem(build=own)
    assert mupkit.get_rules(given.model({"width": 32}, {})) is mupkit.TABLE_8
    text = str(transfer.summary(given, transfer.search(given, SPACE, 2, seed=0)))
    assert "model = build(width=64, mult=" in text and "parametrize" not in text


def run(monkeypatch, tmp_path, *options, space=GOOD, build=build):
    own = SimpleNamespace(build=build, loss=loss, validate=lambda model: loss(model, 0))
    monkeypatch.setitem(sys.modules, "own", own)
    (tmp_path / "space.toml").write_text(space)
    given = ["--loss", "own:loss", "--space", str(tmp_path / "space.toml")]
    given += ["--proxy", "width=16", "--target", "width=64", "--steps", "10"]
    return main(["transfer", "own:build", *given, *options])


def test_the_command_says_what_to_train_the_target_with(monkeypatch, tmp_path, capsys):
    options = ["--trials", "5", "--seed", "0", "--target-runs", "2", "--optimizer", "adamw"]
    assert run(monkeypatch, tmp_path, *options) == 0
    out = capsys.readouterr().out
    assert "coordinate check of the proxy and two wider models:" in out
    assert "5 trials, 1 diverged; the best ones:" in out
    assert "mupkit.parametrize(build(width=64, mult=" in out
    assert "optimizer = mupkit.MuAdamW(model, lr=" in out
    assert out.count("target with lr=") == 2 and "regret: the first one loses" in out


def test_the_command_prints_json(monkeypatch, tmp_path, capsys):
    options = ["--trials", "3", "--no-check", "--json", "--validate", "own:validate"]
    assert run(monkeypatch, tmp_path, *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["trials"] == 3 and found["regret"] is None
    assert found["best"][0].keys() == {"lr", "mult"}


def test_a_wrong_model_is_not_searched(monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, "--rules", "sp") == 1
    out = capsys.readouterr().out
    assert "fails" in out and "trials" not in out


REQUESTS = {
    ("--optimizer", "adan"): "allowed are adam",
    ("--target", "wide=3"): "--proxy and --target need the same keys",
    ("--target", "width=16"): "nothing to transfer across",
    ("--loss", "own:lose"): "own:lose cannot be imported",
    ("--space", "missing.toml"): "missing.toml",
}


@pytest.mark.parametrize("options", REQUESTS)
def test_what_cannot_be_done_is_refused(options, monkeypatch, tmp_path, capsys):
    assert run(monkeypatch, tmp_path, *options) == 2
    assert REQUESTS[options] in capsys.readouterr().err


def test_an_error_of_ones_own_code_is_told_as_that(monkeypatch, tmp_path, capsys):
    def needs_more(width, mult, depth):
        return build(width, mult)

    assert run(monkeypatch, tmp_path, build=needs_more) in (2, 4)
    assert "depth" in capsys.readouterr().err


def test_without_optuna_the_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "mupkit.transfer")
    monkeypatch.delattr(mupkit, "transfer")
    assert run(monkeypatch, tmp_path) == 2
    assert "mupkit[transfer]" in capsys.readouterr().err
