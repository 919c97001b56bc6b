"""Signals end a workflow soon, in a line, and the same command goes on."""

import fcntl
import os
import signal
import subprocess
import time

import pytest

SMOKE = ("--config", "scale=smoke")
GOES_ON = "the same command goes on with the rest"


def stored(project) -> int:
    return len(list((project.root / "results" / "smoke" / "runs").glob("[!.]*.parquet")))


def start(project) -> subprocess.Popen:
    command = project.command("fig1", *SMOKE)
    command[-1] = "1"  # core, so that one job helps with all runs
    return subprocess.Popen(
        command,
        cwd=project.root,
        env=project.env,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def said(process: subprocess.Popen) -> str:
    errors = process.communicate(timeout=120)[1]
    for noise in ("Exception", "Traceback", "set -euo pipefail", "Select jobs"):
        assert noise not in errors, errors
    return errors


@pytest.fixture(autouse=True)
def heard():
    """Workflows hear Ctrl-C, also where a shell that started the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stopped_workflows_end_soon_and_go_on(project) -> None:
    # One that waits for another does not wait for it to end.
    folder = project.root / "results" / "smoke"
    folder.mkdir(parents=True)
    with (folder / ".workflow.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiting = start(project)
        for line in waiting.stderr:
            if "another workflow runs" in line:
                break
        waiting.terminate()
        assert "stopped while it waited" in said(waiting)
        assert waiting.returncode == 130

    # A signal to the workflow alone: its job does not go on with the runs of all others.
    running = start(project)
    wait_until(lambda: stored(project) >= 2)
    before = stored(project)
    running.terminate()
    assert f"of 24 runs are kept; {GOES_ON}" in said(running)
    assert running.returncode == 1
    after = stored(project)
    assert after <= before + 2
    hidden = os.listdir(folder)
    assert not [name for name in hidden if name.startswith(".workflow-")]

    # Ctrl-C reaches its jobs, too.
    running = start(project)
    wait_until(lambda: stored(project) > after)
    os.killpg(running.pid, signal.SIGINT)
    assert GOES_ON in said(running)
    assert stored(project) < 24

    done = project.snakemake("fig1", *SMOKE)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("24 of 24 runs") == 1
    assert "Select jobs" not in done.stderr

    # Nothing to be done, but what there is.
    again = project.snakemake("fig1", *SMOKE)
    picture = project.root / "figures" / "smoke" / "fig1.svg"
    assert f"fig1: {picture}; 0 of 8 claims hold" in again.stderr
