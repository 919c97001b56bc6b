"""The scripts in benchmarks start, and their steps are made of names that exist."""

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "args"),
    [
        ("step", ("--one", "ours", "32")),
        ("step", ("--one", "stack of 4", "32")),
        ("engine", ("--worker", "ours", "32", "1")),
        ("engine", ("--worker", "stock", "32", "1")),
        ("vision", ("--worker", "ours", "mlp", "16", "1")),
        ("vision", ("--worker", "stock", "mlp", "16", "1")),
    ],
)
def test_one_process_of_each_times_a_step(built_in_data, script, args) -> None:
    found = json.loads(run(ROOT / "benchmarks" / f"{script}.py", *args))
    assert (found if script == "step" else found["seconds"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_a_worker_of_the_families_times_one_case_after_the_other(built_in_data, kind) -> None:
    cases = [["mlp_cifar10", {"width": 16}], ["transformer_wikitext2", {"width": 32}]]
    asked = "".join(f"{json.dumps(case)}\n2\n" for case in cases)
    script = ROOT / "benchmarks" / "families.py"
    answers = run(script, "--worker", kind, str(ROOT), asked=asked).splitlines()
    seconds = [float(line.removeprefix("answer ")) for line in answers]
    assert len(seconds) == 4
    assert min(seconds) > 0
