"""Lines that a person follows."""

import dataclasses
import os
import time

import pytest

from experiments.messages import duration
from experiments.runs import planning, progress
from experiments.runs.planning import Speed, Timed
from experiments.runs.progress import PRIOR, SECONDS_BETWEEN_LINES, Progress
from experiments.runs.store import Store
from tests.experiments.runs.test_store import record
from tests.tiny_runs import tiny_run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (240, "4 min"),
        (7860, "2 h 11 min"),
        (1.05e5, "29 h"),
        (3e5, "3 days"),
    ],
)
def test_duration(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.fixture
def times(monkeypatch):
    """A machine that was timed: 2 seconds a step, whatever the shape, after 60 of start-up."""
    run = tiny_run()
    one = Timed(run.family, run.describe(), planning.step_flops(run), 2.0, 0.0)
    monkeypatch.setattr(progress, "known_best", lambda *_: Speed({planning.shape(run): one}, 60.0))


def test_lines_count_all_runs_and_come_now_and_then(tmp_path, capsys, times) -> None:
    store = Store(tmp_path)
    runs = [tiny_run(seed=s) for s in range(4)]
    store.write(record(seed=0))
    own = Progress("fig1", runs, store, jobs=2)
    other = Progress("fig1", runs, store, jobs=2)
    for seed, teller in ((1, own), (2, other)):
        store.write(record(seed=seed))
        teller(record(seed=seed))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "the second one comes too soon"
    # Two runs of 10 seconds in two processes. This one's first took 1.5 seconds instead of 6.
    seconds = 10 * (PRIOR + 1.5) / (PRIOR + 6)
    assert lines[0].startswith(
        f"fig1: 2 of 4 runs, about {duration(seconds)} left; mup width 32 log2lr -7 seed 1"
    )
    assert "loss 0.300" in lines[0]
    store.write(record((9.0, float("nan")), 1, seed=3))
    other(record((9.0, float("nan")), 1, seed=3))
    assert capsys.readouterr().err == "fig1: 4 of 4 runs; mup width 32 log2lr -7 seed 3: diverged\n"
    later = Progress("fig1", runs, store, jobs=2)
    for seed in range(4):
        later(record(seed=seed))
    assert capsys.readouterr().err == "", "what was there before is not told run by run"
    assert SECONDS_BETWEEN_LINES >= 5


def test_all_runs_are_counted_when_a_line_is_due_alone(tmp_path, capsys, times) -> None:
    store, runs = Store(tmp_path), [tiny_run(seed=s) for s in range(40)]
    own = Progress("fig1", runs, store, jobs=2)
    looked = []
    whole = store.looks_finished
    store.looks_finished = lambda run_id: (looked.append(run_id), whole(run_id))[1]
    for seed in range(40):
        store.write(record(seed=seed))
        own(record(seed=seed))
    assert len(looked) < 5 * len(runs)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("fig1: 1 of 40 runs") and last.startswith("fig1: 40 of 40 runs")


def test_lines_are_seldom_where_one_takes_long(tmp_path, capsys, times, monkeypatch) -> None:
    store, runs = Store(tmp_path), [tiny_run(seed=s) for s in range(3)]
    own = Progress("fig1", runs, store, jobs=2)
    monkeypatch.setattr(progress, "SHARE", 1e-9)
    for seed in range(2):
        store.write(record(seed=seed))
        own(record(seed=seed))
        os.utime(own.stamp, (0, time.time() - 2 * SECONDS_BETWEEN_LINES))
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert own.between > 100 * SECONDS_BETWEEN_LINES


def test_the_first_time_left_is_the_plans_without_start_up(tmp_path, capsys, times) -> None:
    store, runs = Store(tmp_path), [tiny_run(seed=s) for s in range(9)]
    own = Progress("fig1", runs, store, jobs=2)
    made = record(seed=0)
    provenance = dataclasses.replace(made.provenance, seconds=6.0)  # for three steps, as predicted
    made = dataclasses.replace(made, provenance=provenance)
    store.write(made)
    own(made)
    assert "1 of 9 runs, about 40 s left" in capsys.readouterr().err


def test_what_follows_is_in_the_line_and_in_its_time(tmp_path, capsys, times) -> None:
    store, runs = Store(tmp_path), [tiny_run(seed=s) for s in range(2)]
    more = [tiny_run(seed=s) for s in (7, 8, 9)]
    store.write(record(seed=7))
    own = Progress("fig6", runs, store, 1, following=lambda: more)
    for seed in range(2):
        made = record(seed=seed)
        provenance = dataclasses.replace(made.provenance, seconds=6.0)  # as predicted
        made = dataclasses.replace(made, provenance=provenance)
        store.write(made)
        own(made)
        os.utime(own.stamp, (0, time.time() - 2 * SECONDS_BETWEEN_LINES))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("fig6: 1 of 2 runs, and 2 that follow, about 30 s left; ")
    assert last.startswith("fig6: 2 of 2 runs, and 2 that follow, about 20 s left; ")
    later = Progress("fig6", more, store, 1, what="runs that follow")
    store.write(record(seed=8))
    later(record(seed=8))
    assert capsys.readouterr().err.startswith("fig6: 2 of 3 runs that follow, about ")
