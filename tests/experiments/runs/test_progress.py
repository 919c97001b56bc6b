"""Lines that a person follows."""

import pytest

from experiments.runs.progress import SECONDS_BETWEEN_LINES, Progress, duration
from experiments.runs.store import Store
from tests.experiments.runs.test_store import record
from tests.tiny_runs import tiny_run


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (89, "89 s"), (240, "4 min"), (7860, "2 h 11 min"), (3e5, "3 days")],
)
def test_duration(seconds, text) -> None:
    assert duration(seconds) == text


def test_lines_count_all_runs_and_come_now_and_then(tmp_path, capsys) -> None:
    store = Store(tmp_path)
    runs = [(tiny_run(seed=s), 1.0) for s in range(4)]
    store.write(record(seed=0))
    progress = Progress("fig1", runs, store, jobs=2)
    other = Progress("fig1", runs, store, jobs=2)
    for seed, teller in ((1, progress), (2, other)):
        store.write(record(seed=seed))
        teller(record(seed=seed))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, "the second one comes too soon"
    assert lines[0].startswith("fig1: 2 of 4 runs, about 0 s left; mup width 32 log2lr -7 seed 1")
    assert "loss 0.300" in lines[0]
    store.write(record((9.0, float("nan")), 1, seed=3))
    other(record((9.0, float("nan")), 1, seed=3))
    assert capsys.readouterr().err == "fig1: 4 of 4 runs; mup width 32 log2lr -7 seed 3: diverged\n"
    later = Progress("fig1", runs, store, jobs=2)
    for seed in range(4):
        later(record(seed=seed))
    assert capsys.readouterr().err == "", "what was there before is not told run by run"
    assert SECONDS_BETWEEN_LINES >= 5
