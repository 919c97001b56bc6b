"""`python -m mupkit explain` and `check`: output and exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mupkit.__main__ import main

MODULE = """
import torch
import mupkit
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, width, ffn=None, classes=5):
        super().__init__()
        ffn = ffn or width
        self.up, self.down = nn.Linear(8, ffn), nn.Linear(ffn, width)
        self.readout = nn.Linear(width, classes)
    def forward(self, x):
        return self.readout(torch.relu(self.down(torch.relu(self.up(x)))))

def build(width, ffn=None, classes=5):
    return Net(width, ffn, classes)

def warned(width):
    import warnings
    warnings.warn("Beware. This is no fix.")
    return Net(width)

def own(width):
    return mupkit.set_base_shapes(Net(width), Net(32))  # a plain readout: refused

class Branches(Net):
    power = 0.0
    def __init__(self, width):
        super().__init__(width)
        self.branch, self.factor = nn.Linear(width, width), width ** self.power
    def forward(self, x):
        x = self.down(torch.relu(self.up(x)))
        return self.readout(x + self.factor * self.branch(x))

class Vanishing(Branches):
    power = -0.5

class Attends(nn.Module):
    power = -1.0
    def __init__(self, width):
        super().__init__()
        self.up, self.qkv = nn.Linear(1, width), nn.Linear(width, 3 * width)
        self.readout, self.factor = nn.Linear(width, 5), width ** self.power
    def forward(self, x):
        q, k, v = self.qkv(self.up(x[..., None])).chunk(3, -1)
        return self.readout(((q @ k.mT * self.factor).softmax(-1) @ v).mean(1))

class Rooted(Attends):
    power = -0.5

def loss(model):
    p = next(model.parameters())
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).to(p)
    return F.cross_entropy(model(x), torch.arange(8) % 5)

def plain(model):
    return torch.optim.Adam(model.parameters(), lr=0.02)

def missing(model):
    return {}["labels"]

def cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=101)
"""
EXPLAIN = ["explain", "my_model:build", "--base", "width=32", "--target", "width=128"]
CHECK = ["check", "my_model:build", "--loss", "my_model:loss", "--base", "width=32"]
CHECK += ["--widths", "width=32,64,128,256", "--lr", "0.02", "--seeds", "5"]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_model.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("COLUMNS", raising=False)  # else tables are narrow


def test_explain_prints_a_line_for_each_parameter(capsys):
    assert main(EXPLAIN) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "name",
        *("up.weight", "up.bias", "down.weight", "down.bias", "readout.weight", "readout.bias"),
    ]


def test_explain_as_csv_on_the_meta_device(capsys):
    assert main([*EXPLAIN[:-1], "width=1024", "--meta", "--csv", "--lr", "0.5"]) == 0
    table = {row["name"]: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert table["down.weight"]["lr"] == f"{0.5 / 32:.4g}"
    assert table["down.weight"]["init_std"] == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--optimizer", "my_model:plain"], "its rate is 4 times that of"),
        (["--scheduler", "my_model:cycle"], "warning: scheduler: the learning rates"),
        (["--delta", "width=64", "ffn=32"], ". If they are widths, vary them in the delta"),
        (["--optimizer", "adam", "--weight-decay", "1"], "across width. Use mupkit.MuAdamW.\n"),
    ],
)
def test_explain_warns_and_returns_1(options, words, capsys):
    arguments = EXPLAIN if "--delta" not in options else [*EXPLAIN[:3], "width=32", "ffn=32"]
    arguments = arguments if "--delta" not in options else [*arguments, *EXPLAIN[4:], "ffn=64"]
    assert main([*arguments, *options]) == 1
    assert words in capsys.readouterr().out


LOOKED_AT = [
    ("Branches", ""),
    (
        "Vanishing",
        "warning: model: activations are multiplied by a number that is not that of the ",
    ),
    ("Attends", ""),
    ("Rooted", "warning: model: d_head times the factor of q·k is 2 times what it is in the base"),
]


@pytest.mark.parametrize("rules", ["3", "8"])
@pytest.mark.parametrize(("build", "words"), LOOKED_AT)
def test_explain_looks_at_a_forward_pass(build, words, rules, capsys):
    arguments = ["explain", f"my_model:{build}", *EXPLAIN[2:], "--rules", rules]
    assert main(arguments) == 0, "without a loss nothing is seen"
    assert main([*arguments, "--loss", "my_model:loss"]) == (1 if words else 0)
    assert words in capsys.readouterr().out
    assert main([*arguments, "--loss", "my_model:loss", "--meta"]) == 2
    assert "--loss needs data" in capsys.readouterr().err


def test_check_clips_as_the_training_does(capsys):
    arguments = [*CHECK[:7], "width=128,256,512,1024", "--lr", "0.5", "--optimizer", "sgd"]
    assert main(arguments) == 0
    assert "clipping" not in capsys.readouterr().out
    assert main([*arguments, "--clip", "0.1"]) == 1
    out = capsys.readouterr().out
    assert "clipping leaves less of the gradients, the wider the model" in out
    assert main([*CHECK, "--clip", "0.1"]) == 0, "Adam normalizes"


def test_a_warning_of_the_model_is_passed_on_as_it_is(capsys):
    assert main(["explain", "my_model:warned", *EXPLAIN[2:]]) == 1
    assert capsys.readouterr().out.endswith("warning: model: Beware. This is no fix.\n")


@pytest.mark.parametrize(("rules", "title"), [("3", "Table 3"), ("8", "Table 8"), ("sp", "SP")])
def test_explain_by_other_rules(rules, title, capsys):
    assert main([*EXPLAIN, "--rules", rules]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(f"  {title}, " in line for line in lines[1:])


def test_check_passes_a_right_model_and_draws(capsys, tmp_path):
    assert main([*CHECK, "--delta", "width=64", "--picture", "check.png"]) == 0
    assert capsys.readouterr().out.startswith("passed")
    assert (tmp_path / "check.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("picture", "words"),
    [("nowhere/check.png", "its folder does not exist"), ("check.png", "and matplotlib: ")],
)
def test_check_refuses_a_picture_before_it_trains(picture, words, monkeypatch, capsys):
    if picture == "check.png":
        monkeypatch.setitem(sys.modules, "experiments.analysis.coordinate_pictures", None)
    assert main([*CHECK, "--delta", "width=64", "--picture", picture]) == 2
    done = capsys.readouterr()
    assert words in done.err
    assert done.out == ""


def test_explain_fits_a_narrow_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(EXPLAIN) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        *("up.weight", "up.bias", "down.weight", "down.bias", "readout.weight", "readout.bias"),
    ]
    assert "  lr" in {line[:4] for line in lines}
    assert max(map(len, lines)) <= 110, "the rule is one long text"


def test_check_finds_a_plain_optimizer(capsys):
    assert main([*CHECK, "--delta", "width=64", "--optimizer", "my_model:plain"]) == 1
    assert "grows with width" in capsys.readouterr().out


def test_check_varies_several_widths_together(capsys):
    arguments = [*CHECK]
    at = arguments.index("--widths")
    arguments[at + 1 : at + 2] = ["width=32,64,128,256", "ffn=64,128,256,512"]
    assert main([*arguments, "--delta", "width=64", "ffn=65", "--base", "width=32", "ffn=64"]) == 0


BAD = {
    "no module": (["explain", "nowhere:build", *EXPLAIN[2:]], "nowhere:build cannot be imported"),
    "no function": (["explain", "my_model:x", *EXPLAIN[2:]], "expected module:name"),
    "no value": ([*EXPLAIN[:3], "width", *EXPLAIN[4:]], "'width' is not of the form key=value"),
    "unknown argument": ([*EXPLAIN[:3], "depth=3", *EXPLAIN[4:]], "depth"),
    "plain readout": (["explain", "my_model:own", *EXPLAIN[2:]], "mupkit.parametrize"),
    "optimizer": ([*EXPLAIN, "--optimizer", "lion"], "allowed are adam"),
    "one width": ([*CHECK[:6], "--widths", "width=32"], "two or more numbers"),
    "uneven": ([*CHECK[:6], "--widths", "width=32,64", "ffn=1,2,3"], "equally many for every key"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_one_line_and_status_2(bad, capsys):
    arguments, words = BAD[bad]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


WRONG = {
    "loss": (["check", "my_model:build", "--loss", "my_model:missing", *CHECK[4:]], "KeyError"),
    "syntax": (["explain", "broken:build", *EXPLAIN[2:]], "broken.py, line 2: SyntaxError"),
    "import": (["explain", "raising:build", *EXPLAIN[2:]], "raising.py, line 1: ZeroDivisionError"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_error_of_the_users_code_is_one_line_with_its_place_and_status_4(
    wrong, capsys, tmp_path
):
    (tmp_path / "broken.py").write_text("import torch\ndef build(width:\n")
    (tmp_path / "raising.py").write_text("x = 1 / 0\n")
    arguments, words = WRONG[wrong]
    assert main(arguments) == 4
    error = capsys.readouterr().err
    assert words in error and str(tmp_path) in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_what_is_undecided_has_status_3_until_seeds_are_added(capsys):
    arguments = [*CHECK[:-1], "1", "--delta", "width=64"]
    assert main([*arguments, "--most-seeds", "1"]) == 3
    assert "one seed: give more" in capsys.readouterr().out
    assert main([*arguments, "--most-seeds", "6"]) == 0


def test_json_has_all_that_is_printed(capsys):
    assert main([*CHECK, "--delta", "width=64", "--json", "--dtype", "float32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "passed"
    assert {row["tensor"] for row in found["tensors"]} >= {"up", "down.weight", "readout"}
    assert {row["judgement"] for row in found["tensors"]} <= {"ok", "inactive"}
    assert main([*EXPLAIN, "--optimizer", "my_model:plain", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {"down.weight", "readout.bias"} <= {row["name"] for row in found["parameters"]}
    assert found["findings"][0]["level"] == "warning" and found["findings"][0]["fix"]


@pytest.mark.parametrize("command", ["explain", "check"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    assert f"python -m mupkit {command} my_model:build" in capsys.readouterr().out


def shell(*arguments: str, **streams) -> subprocess.CompletedProcess:
    """A process of its own that finds the model and this checkout."""
    paths = (str(Path(__file__).parents[2]), str(Path.cwd()))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **streams.pop("env", {})}
    return subprocess.run([sys.executable, "-m", "mupkit", *arguments], env=env, **streams)


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    done = shell(*EXPLAIN, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_what_a_poor_encoding_lacks_is_spelled_out(tmp_path):
    odd = MODULE.replace("self.up", "self.\u00b5p").replace("my_model", "odd")
    (tmp_path / "odd.py").write_text(odd, encoding="utf-8")
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    told = shell(EXPLAIN[0], "odd:build", *EXPLAIN[2:], capture_output=True, env=ascii_only)
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines()[1].startswith(b"\\u03bcp.weight")


def test_what_a_closed_stderr_would_say_is_not_on_stdout(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert main([EXPLAIN[0], "my_model:none", *EXPLAIN[2:]]) == 2
    assert capsys.readouterr().out == ""
