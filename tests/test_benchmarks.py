"""The scripts in benchmarks start, and their steps are made of names that exist."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def built_in_data(cache, monkeypatch) -> None:
    """The text and the images that dependencies ship, prepared once."""
    monkeypatch.delenv("MUPKIT_DATA", raising=False)
    monkeypatch.setenv("MUPKIT_CACHE", str(cache))


def run(script: Path, *args: str, asked: str | None = None) -> str:
    command = [sys.executable, str(script), *args]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, input=asked)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_script_explains_itself(script) -> None:
    assert script.name in run(script, "--help")


@pytest.fixture
def growth(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("growth")


def test_growth_is_measured_with_a_few_synthetic_runs() -> None:
    words = ("--runs", "50", "--steps", "4", "--only", "group", "tables")
    table = run(ROOT / "benchmarks" / "growth.py", *words).splitlines()
    assert table[0].startswith("| operation | 50 runs, s | exponent |")
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == [
        "write the runs",
        "declare and group them",
        "collect into tidy tables",
    ]
    assert not (ROOT / "experiments" / "families" / "growth").exists()


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_what_grows_too_fast_is_refused(growth, power) -> None:
    runs = [100, 1_000, 10_000]
    # Three seconds that every call costs, and what grows.
    at = {n: 3.0 + 10 * (n / runs[-1]) ** power for n in runs}
    found = [{"read": {"processor": at[n], "wall": at[n], "megabytes": 1.0}} for n in runs]
    table, steep = growth.table(runs, found)
    told = float(table.splitlines()[-1].split(" | ")[4])
    assert told == pytest.approx(power, abs=0.1)
    assert steep == (power > growth.STEEPEST)
    short = [{"read": {"processor": 0.1, "wall": 0.1, "megabytes": 1.0}} for _ in runs]
    assert "| – |" in growth.table(runs, short)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("step", ("--one", "ours", "32")),
        ("engine", ("--worker", "ours", "32", "1")),
        ("gpu", ("--worker", "stacked", "32", "2", "float32", "0.1")),
        ("vision", ("--worker", "ours", "mlp", "16", "1")),
    ],
)
def test_one_process_of_each_times_a_step(built_in_data, script, args) -> None:
    found = json.loads(run(ROOT / "benchmarks" / f"{script}.py", *args))
    key = {"step": None, "gpu": "rate"}.get(script, "seconds")
    assert (found if key is None else found[key]) > 0


def test_the_table_of_the_gpu_has_a_row_for_each_stack(monkeypatch, capsys, built_in_data) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    rates = {"stock": 2.0, "alone": 4.0, "stacked": 40.0}

    def measure(kind, width, count, precision, seconds, processes=1):
        if kind == "limit":
            return {"flops": 1e12}
        return {"rate": rates[kind] * processes, "members": count}

    monkeypatch.setattr(gpu, "measure", measure)
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "--widths", "32", "--members", "4", "8", "--processes", "2"]
    )
    gpu.main()
    *table, line = capsys.readouterr().out.strip().splitlines()
    rows = json.loads(line)["rows"]
    assert [row["members"] for row in rows] == [4, 8]
    assert [row["2 processes"] for row in rows] == [8.0, 8.0]
    assert table[-1].split("|")[8:11] == [" 10.0 ", " 5.0 ", " 20.0 "]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["products", "stock"])
def test_a_worker_of_the_families_times_one_case_after_the_other(built_in_data, kind) -> None:
    cases = [["mlp_cifar10", {"width": 16}], ["transformer_wikitext2", {"width": 32}]]
    asked = "".join(f"{json.dumps(case)}\n2\n" for case in cases)
    script = ROOT / "benchmarks" / "families.py"
    answers = run(script, "--worker", kind, str(ROOT), asked=asked).splitlines()
    seconds = [float(line.removeprefix("answer ")) for line in answers]
    assert len(seconds) == 4
    assert min(seconds) > 0
