"""The command line: what it shows, and how it refuses."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments import messages
from experiments.analysis import verdicts
from experiments.cli import look, main, options
from experiments.cli.main import app
from experiments.declare import registry
from experiments.declare.scales import SCALES
from experiments.errors import UserError
from experiments.products import tidy_tables
from experiments.runs import planning
from experiments.runs.planning import CORES
from experiments.runs.store import Store

ROOT = Path(__file__).parents[3]


def test_a_plan_counts_the_search_that_is_not_made_yet(monkeypatch) -> None:
    monkeypatch.setattr(look, "timed", lambda runs, jobs, stack: look.known(jobs, stack))
    done = CliRunner().invoke(app, ["plan", "fig7", "--scale", "paper", "--data", "wikitext2"])
    rows = [line.split()[:4] for line in done.output.splitlines() if "128 + 171" in line]
    assert rows == [["tune", "128", "+", "171"]]
    done = CliRunner().invoke(app, ["plan", "fig7", "--data", "wikitext2"])
    assert "tune" not in done.output


def cli(*args: str, **env: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "COLUMNS": "200", **env}
    return subprocess.run(
        [sys.executable, "-m", "experiments", *args],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["show", "fig99"], "unknown figure or table 'fig99'"),
        (["claims", "fig98"], "unknown figure or table 'fig98'"),
        (["draw", "fgi1"], "did you mean 'fig1'"),
        (["run", "transformer_wiki"], "did you mean 'transformer_wikitext2'"),
        (["run", "transformer_wikitext2", "--widht", "64"], "did you mean 'width'"),
        (["run", "transformer_wikitext2", "--width", "wide"], "width: Input should be a valid"),
        (["run", "transformer_wikitext2", "--width"], "--width needs a value"),
        (["run", "transformer_wikitext2", "64"], "write --key value"),
        (["run", "transformer_wikitext2", "--data", "books"], "unknown data 'books'"),
        (["show", "fig1", "--scale", "big"], "unknown scale 'big'"),
        (["status", "--scale", "big"], "unknown scale 'big'"),
        (["tune", "resnet"], "unknown family 'resnet'"),
        (["tune", "theory"], "theory trains nothing"),
        (["run", "theory"], "theory trains nothing"),
        (["run", "transformer_wiki", "--help"], "did you mean 'transformer_wikitext2'"),
        (["reverse", "theory"], "theory trains nothing"),
        (["reverse", "transformer_wikitext2", "--widht", "64"], "did you mean 'width'"),
        (["reverse", "transformer_wikitext2", "--width", "16"], "give --narrow 16 or less"),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, words, monkeypatch, capsys) -> None:
    monkeypatch.setattr(main, "heed_signals", lambda: None)
    monkeypatch.setattr(sys, "argv", ["experiments", *args])
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr()
    assert end.value.code == 2
    assert words in said.err
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_closed_streams_and_a_poor_encoding_are_no_errors() -> None:
    told = cli("show", "fig1", PYTHONIOENCODING="ascii")
    assert told.returncode == 0, told.stderr
    assert "\\xb5P" in told.stdout
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "experiments"]
    ended = subprocess.run([*command, "list"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert ended.stderr == b""
    shell = f"{shlex.join(command)} show fig99 2>&-"
    refused = subprocess.run(["sh", "-c", shell], cwd=ROOT, stdout=subprocess.PIPE)
    assert (refused.returncode, refused.stdout) == (2, b"")


def test_missing_data_folder_is_one_line_and_status_2(tmp_path) -> None:
    nowhere = tmp_path / "nowhere"
    done = cli("status", "fig1", MUPKIT_DATA=str(nowhere))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: MUPKIT_DATA: {nowhere} does not exist")
    assert done.stderr.count("\n") == 1


def test_figure_without_runs_says_what_to_do() -> None:
    done = cli("claims", "fig1", "--scale", "paper")
    assert done.returncode == 2
    assert "run `snakemake fig1` first" in done.stderr


def test_list_and_show() -> None:
    done = cli("list")
    assert done.returncode == 0
    assert "fig1" in done.stdout
    shown = cli("show", "fig1", "--scale", "paper").stdout
    for text in ("128, 256, 512, 1024, 2048, 4096, 8192", "mup-optimum-stays", "Figure 1"):
        assert text in shown
    keys = cli("show", "transformer_wikitext2").stdout
    for text in ("output_mult", "log2lr", "base-2 logarithm of the master learning rate"):
        assert text in keys


@pytest.fixture
def invoke(monkeypatch):
    """The command line in this process, on wide lines; what it printed."""
    from experiments.cli.main import app
    from experiments.cli.options import console

    monkeypatch.setattr(console, "width", 1000)

    def call(*args: str) -> str:
        done = CliRunner().invoke(app, args)
        assert done.exception is None, (args, done.exception)
        assert done.exit_code == 0, (args, done.output)
        return done.output

    return call


@pytest.mark.parametrize("scale", SCALES)
def test_every_product_is_listed_and_shown_at_every_scale(invoke, scale) -> None:
    listed = {
        line.split()[0]: line for line in invoke("list", "--scale", scale).splitlines() if line
    }
    for name, product in registry.products().items():
        assert product.title in listed[name]
        shown = invoke("show", name, "--scale", scale)
        stated = [text for claim in product.claims for text in (claim.statement, claim.paper)]
        for text in (product.title, product.caption, *stated):
            assert text in shown, name
        assert ("paper's number" in shown) == any(claim.paper for claim in product.claims), name
        assert (f"runs at the scale {scale}" in shown) == bool(product.sweeps), name


def test_verdicts_are_told_with_the_papers_numbers(invoke) -> None:
    assert "the paper's number: 0.43 percentage points" in invoke(
        "claims", "table12", "--reference"
    )
    assert "the paper's number" not in invoke("claims", "fig1", "--reference")


def test_every_family_is_shown_with_its_data_sources(invoke) -> None:
    for name in registry.exhibits().keys() - registry.products().keys():
        shown = invoke("show", name)
        exhibit = registry.exhibit(name)
        assert exhibit.title in shown
        lines = [line.split(maxsplit=1) for line in shown.splitlines()]
        for data_source, label in exhibit.data_sources.items():
            assert [data_source, label] in [[word.strip() for word in line] for line in lines]
        assert ("data source" in shown) == bool(exhibit.data_sources)


def test_commands_are_grouped_by_what_people_want(invoke) -> None:
    text = invoke("--help")
    places = [text.index(word) for word in ("Look", " list ", "Train", " run ", "Keep", " forget ")]
    assert places == sorted(places)


def test_what_trains_nothing_is_listed_and_shown() -> None:
    listed = cli("list").stdout.splitlines()
    assert [line.split()[:3] for line in listed if "fig2 " in line] == [["fig2", "theory", "none"]]
    assert "drawn by code alone" in cli("show", "fig2").stdout
    shown = cli("show", "table14", "--scale", "smoke").stdout
    for text in (
        "[16, 32, 64]",
        "experiments.families.theory.sizes:sizes",
        "vector-exponent",
        "<= 0.1",
    ):
        assert text in shown
    assert "runs at the scale" not in shown
    assert "It trains nothing" in cli("show", "theory").stdout


def test_status_and_forget_of_what_trains_nothing(tmp_path, monkeypatch, capsys) -> None:
    from experiments.cli import keep, look
    from experiments.products import computing
    from experiments.runs import places

    monkeypatch.setattr(places, "ROOT", tmp_path)
    product = registry.product("table3")
    assert look._computation_status(registry.product("fig2"), "small", "") == ("0", "0")
    assert look._computation_status(product, "small", "") == ("0", "1", "", "0", "0")
    assert keep._forget_computation(product, "small", False).startswith("0 computations")
    computing.compute(product, "small", "", tmp_path / "results" / "small" / "table3")
    assert look._computation_status(product, "small", "") == ("1", "1", "", "0", "0")
    assert keep._forget_computation(product, "small", True).startswith("0 computations")
    monkeypatch.setattr(computing, "computing_version", lambda computation: "other")
    assert look._computation_status(product, "small", "") == ("1", "1", "", "0", "1")
    assert keep._forget_computation(product, "small", True) == "1 computation of table3 dropped"
    assert list((tmp_path / "results" / "small" / "table3").iterdir()) == []
    schematic = keep._forget_computation(registry.product("fig2"), "small", False)
    assert schematic == "fig2 is drawn by code alone, there is nothing to forget"


def test_status_goes_on_where_one_familys_data_are_missing(tmp_path) -> None:
    done = cli("status", "--scale", "smoke", MUPKIT_DATA=str(tmp_path))
    assert done.returncode == 0
    assert "fig1: MUPKIT_DATA" in done.stderr
    assert ["fig1", "missing"] in [line.split() for line in done.stdout.splitlines()]
    assert cli("status", "fig1", "--scale", "smoke", MUPKIT_DATA=str(tmp_path)).returncode == 2


@pytest.mark.parametrize(
    "command",
    ["run", "reverse", "show", "claims", "status", "draw", "tune", "forget", "doctor", "plan"],
)
def test_help_has_an_example(command) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert f"python -m experiments {command}" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize("command", ["run", "reverse"])
def test_help_of_a_family_lists_its_keys_in_eighty_columns(command) -> None:
    done = cli(command, "mlp_cifar10", "--help", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("Keys of mlp_cifar10") :].splitlines()
    family = registry.family("mlp_cifar10")
    rows = {line.split()[0]: line for line in table if line[:1].strip()}
    assert family.config.model_fields.keys() <= rows.keys()
    assert rows["optimizer"].split()[1:3] == ["adam,", "adamw,"]
    assert rows["base_width"].split()[1:3] == ["int", str(family.example["base_width"])]
    assert "width at which µP equals SP" in rows["base_width"]
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_options_of_run(tiny) -> None:
    from experiments.cli.train import _options

    experiment = registry.exhibit("transformer_wikitext2")
    words = ["--log2lr", "-7", "--base-width=16", "--tied", "true"]
    assert _options(words, experiment) == {"log2lr": "-7", "base_width": "16", "tied": "true"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--optimizer", "adam", "--momentum", "0.9"], "momentum: changes nothing with optimizer="),
        (
            ["--parametrization", "sp", "--base-width", "16"],
            "base_width: changes nothing with para",
        ),
        (["--log2lr", "2000"], "log2lr: .*100"),
        (["--width", "1000000"], "width=1000000, n_head=4: weights and gradients take at least"),
        (["--d-head=1000000", "--width=1000000"], "d_head=1000000: weights and gradients take at"),
        (["--parallel", "ddp"], "--parallel ddp needs processes that torchrun starts: torchrun .*"),
        (["--parallel", "ddq"], "unknown --parallel 'ddq'; did you mean 'ddp'.*"),
        (
            ["--accumulate", "3"],
            "batch_size: 16 examples do not divide into 3 equal parts .*; give a multiple of 3",
        ),
        (["--batch-size", "10000000"], "batch_size: 10000000 is more than .*; give [0-9]+ or less"),
    ],
)
def test_a_run_is_refused_before_it_is_trained(tiny, tmp_path, monkeypatch, words, error) -> None:
    from experiments.cli import train

    monkeypatch.setattr(train, "results_dir", lambda scale: tmp_path / scale)
    command = ["run", "transformer_wikitext2", "--vocab-size", "100", *words]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, UserError)
    assert re.fullmatch(f".*{error}.*", str(done.exception))
    assert not list(tmp_path.rglob("*.parquet"))


def test_cores_are_counted() -> None:
    assert CORES >= 1


def test_what_files_and_folders_say_steers_no_terminal(capsys) -> None:
    verdict = verdicts.read(tidy_tables.claims_file(registry.product("fig1"), "reference"))[0]
    evil = "[bold]a[/b] :smile: \x1b[2J\x07 \N{COMBINING ACUTE ACCENT}"
    shown = evil.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    with options.console.capture() as captured:
        look._print_verdicts([dataclasses.replace(verdict, statement=evil, note=evil)])
        options.console.print(f"/a[/b]/{evil}", soft_wrap=True)
    assert captured.get().count(shown) == 3
    messages.note(evil + "\nanother")
    assert capsys.readouterr().err == f"{shown}\\nanother\n"


def test_a_narrow_terminal_breaks_no_word_and_cuts_no_name(invoke, monkeypatch) -> None:
    from experiments.cli.options import console

    monkeypatch.setattr(console, "width", 80)
    shown = invoke("claims", "fig1", "--reference")
    words = {word for claim in registry.product("fig1").claims for word in claim.statement.split()}
    assert words <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    lines = invoke("status", "--scale", "smoke").splitlines()
    assert registry.products().keys() <= {line.split()[0] for line in lines if line.strip()}
    assert {"wikipedia_sample", "digits"} <= {word for line in lines for word in line.split()}
    printed = [line for line in lines if not re.match(r"\w+: ", line)]  # notes are of any length
    assert max(map(len, printed)) <= 80


def test_the_time_left_counts_stacks_where_that_is_asked_for(invoke, monkeypatch, tmp_path) -> None:
    from experiments.runs import places

    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    runs = registry.product("fig1").runs("smoke", "wikipedia_sample")
    for stack, seconds in ((1, 60.0), (24, 10.0)):
        times = {
            planning.shape(run): planning.Timed(
                run.family, "", planning.step_flops(run), seconds, 0.0, members=stack
            )
            for run in runs
        }
        text = json.dumps(dataclasses.asdict(planning.Speed(times, 0.0)))
        planning.speed_file(CORES, stack).write_text(text)
    for stack in (1, 24, 5):
        lacks = planning.left(runs, Store(tmp_path), planning.known(CORES, stack), CORES)
        assert lacks.timed == (stack != 5)
        given = ("fig1", "--scale", "smoke", "--stack", str(stack))
        (line,) = [line for line in invoke("status", *given).splitlines() if line[:4] == "fig1"]
        assert line.endswith(f"  {lacks.time}")
        assert f"all cores of this machine: {lacks.time}\n" in invoke("show", *given)


def test_who_makes_no_claims_says_so() -> None:
    assert "fig2 makes no claims" in cli("claims", "fig2").stdout


def test_an_installed_copy_writes_nothing(tmp_path, monkeypatch, capsys) -> None:
    from experiments.runs import places

    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.setattr(main, "heed_signals", lambda: None)
    with pytest.raises(SystemExit) as end:
        main.main()
    assert end.value.code == 2
    assert f"error: {tmp_path} is no checkout" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_system_without_locks_is_named() -> None:
    code = (
        "import runpy, sys; sys.modules['fcntl'] = None; "
        "runpy.run_module('experiments', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: Linux or macOS is needed")
    assert done.stderr.count("\n") == 1
