"""What can go wrong from outside: kills, a full or read-only disk, changed data, names as paths."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
SMOKE = ("--config", "scale=smoke")


def groups(project) -> list[str]:
    code = (
        "from experiments.declare.data_sources import resolve_all; "
        "from experiments.runs.grouping import groups; "
        "print(*groups('smoke', resolve_all())[1]['fig1'])"
    )
    return project.run([sys.executable, "-c", code]).stdout.split()


def train(project) -> subprocess.CompletedProcess:
    """One job, which goes on with the figure's other groups when it has done its own."""
    group = groups(project)[0]
    return project.experiments("train", group, "--product", "fig1", "--scale", "smoke")


def count_trainings(project) -> Path:
    """Let the copy write down every run that it trains; the file where it does."""
    log = project.root / "trained.log"
    with (project.root / "experiments" / "runs" / "training.py").open(
        "a", encoding="utf-8"
    ) as file:
        file.write(
            "\n_train_it = _train\n\n\ndef _train(run, *rest):\n"
            f"    with open({str(log)!r}, 'a') as log:\n        log.write(run.id + '\\n')\n"
            "    return _train_it(run, *rest)\n"
        )
    return log


@pytest.fixture
def small_disk(project):
    """A function that mounts the copy's results/smoke with some options."""
    folder = project.root / "results" / "smoke"
    folder.mkdir(parents=True)

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        if os.geteuid() or not shutil.which("mount"):
            pytest.skip("only root can mount")
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")

    yield mount
    if shutil.which("umount"):
        subprocess.run(["umount", str(folder)], capture_output=True)


def one_line(done: subprocess.CompletedProcess, *words: str) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in errors[0]


def hidden(project) -> list[str]:
    folder = project.root / "results" / "smoke"
    return [p.name for p in folder.rglob(".*") if not p.name.startswith((".progress", ".workflow"))]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(project, small_disk) -> None:
    small_disk("size=64k")
    runs = project.root / "results" / "smoke" / "runs"
    full = train(project)
    one_line(full, "No space left on device", "free space", str(runs))
    survivors = {p: p.read_bytes() for p in runs.iterdir()}
    assert 2 < len(survivors) < 24
    assert hidden(project) == []
    sick = project.experiments("doctor", "--scale", "smoke")
    assert sick.returncode == 1
    assert "0 MB left on the disk; free space" in sick.stdout
    subprocess.run(["mount", "-o", "remount,size=8m", str(runs.parent)], check=True)
    done = train(project)
    assert done.returncode == 0, done.stderr
    assert len(list(runs.iterdir())) == 24
    assert {p: p.read_bytes() for p in survivors} == survivors


@pytest.mark.slow
def test_a_read_only_folder_is_one_line(project, small_disk) -> None:
    small_disk("size=1m")
    folder = project.root / "results" / "smoke"
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    one_line(train(project), "Read-only file system", "fix the permissions", str(folder))
    sick = project.experiments("doctor", "--scale", "smoke")
    assert sick.returncode == 1
    assert f"{folder}: read-only" in sick.stdout
    whole = project.snakemake("fig1", *SMOKE)
    one_line(whole, "Read-only file system", "results/smoke")


@pytest.mark.slow
def test_changed_data_are_found_and_dropped_with_stale_alone(project, finish, tmp_path) -> None:
    finish()
    healthy = project.experiments("doctor", "--scale", "smoke")
    assert (healthy.returncode, healthy.stdout) == (0, "results/smoke is in order\n")
    changed = tmp_path / "changed"
    shutil.copytree(project.env["MUPKIT_DATA"], changed)
    train_file = next(changed.rglob("train-*.parquet"))
    pd.read_parquet(train_file).iloc[::-1].to_parquet(train_file)
    project.env["MUPKIT_DATA"] = str(changed)
    sick = project.experiments("doctor", "--scale", "smoke", "--fix")
    assert sick.returncode == 1
    assert "24 runs made with other data" in sick.stdout
    runs = project.root / "results" / "smoke" / "runs"
    assert len(list(runs.iterdir())) == 24
    forgotten = project.experiments("forget", "fig1", "--scale", "smoke", "--stale")
    assert forgotten.stdout == "24 runs of fig1 dropped\n"


@pytest.mark.slow
def test_two_workflows_and_a_process_train_each_run_once(project) -> None:
    log = count_trainings(project)
    group = groups(project)[0]
    process = [sys.executable, "-m", "experiments", "train", group, "--product", "fig1"]
    commands = [project.command("fig1", *SMOKE)] * 2 + [[*process, "--scale", "smoke"]]
    started = [
        subprocess.Popen(c, cwd=project.root, env=project.env, stderr=subprocess.PIPE, text=True)
        for c in commands
    ]
    errors = [p.communicate()[1] for p in started]
    assert [p.returncode for p in started] == [0, 0, 0], errors
    trained = log.read_text().split()
    assert len(trained) == len(set(trained)) == 24
    folder = project.root / "results" / "smoke"
    assert len(pd.read_parquet(folder / "fig1" / "runs.parquet")) == 24
    assert hidden(project) == []
    assert list((folder / "locks").iterdir()) == []


@pytest.mark.slow
def test_a_few_kills(tmp_path) -> None:
    script = [sys.executable, "benchmarks/kills.py", "--kills", "5", "--workflow-kills", "0"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "5 kills" in done.stdout
    assert "no difference" in done.stdout


def test_a_clock_that_is_set_back_does_not_change_seconds(tiny, tmp_path, monkeypatch) -> None:
    from experiments.runs import training
    from experiments.runs.store import Store
    from tests.tiny_runs import tiny_run

    now = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(now))
    (made,) = training.train_runs([tiny_run()], Store(tmp_path / "store"))
    assert 0 < made.provenance.seconds < 60


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b"])
def test_names_cannot_leave_the_results_folder(project, name) -> None:
    for args in (
        ("claims", name),
        ("claims", "fig1", "--scale", name),
        ("train", name, "--product", "fig1", "--scale", "smoke"),
        ("doctor", "--scale", name),
    ):
        one_line(project.experiments(*args), "unknown", repr(name))
    assert not (project.root / "results").exists() or not list(
        (project.root / "results").glob("*/*.parquet")
    )


@pytest.mark.parametrize("option", ["scale=../x", "scale=/etc", "data=../x", "data=a/b"])
def test_options_of_the_workflow_cannot_leave_it_either(project, option) -> None:
    one_line(project.snakemake("fig1", "--config", option), "unknown", option.partition("=")[2])
    assert not (project.root / "results").exists()


def test_a_marker_outside_the_results_is_refused(project, tmp_path) -> None:
    group = groups(project)[0]
    for outside in (tmp_path / "x.done", "results/smoke/../../x.done"):
        options = ("--product", "fig1", "--scale", "smoke", "--done", str(outside))
        one_line(project.experiments("train", group, *options), "is outside")
    assert not (tmp_path / "x.done").exists()
