"""Progress lines while runs train: one now and then, from whichever process is next."""

from __future__ import annotations

import time
from collections.abc import Sequence

from filelock import FileLock

from experiments.declare.config import RunConfig
from experiments.messages import duration, note
from experiments.runs.store import Record, Store

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Lines such as "fig1: 37 of 128 runs, about 4 min left; mup width 64 ...: loss 4.21".

    Several processes train for one product. The first one to finish a run after the last line is
    old enough writes the next line.

    Args:
        name: of the figure or table.
        runs: all of them, each with its cost, in any one unit.
        store: where they are.
        jobs: how many processes train at once.
    """

    def __init__(self, name: str, runs: Sequence[tuple[RunConfig, float]], store: Store, jobs: int):
        self.name, self.store, self.jobs = name, store, max(1, jobs)
        self.runs = {run.id: run for run, _ in runs}
        self.costs = {run.id: cost for run, cost in runs}
        self.started = time.monotonic()
        self.trained = 0.0
        self.known = set(filter(store.looks_finished, self.runs))

    def __call__(self, record: Record) -> None:
        """Count a finished run and write a line if one is due, or if it is the last."""
        new = record.id not in self.known
        if new:
            self.trained += self.costs[record.id]
        left = [run_id for run_id in self.runs if not self.store.looks_finished(run_id)]
        if not self._due() and (left or not new):
            return
        outcome = "diverged" if record.diverged else f"loss {record.final_loss:.3f}"
        what = self.runs[record.id].describe()
        done = f"{len(self.runs) - len(left)} of {len(self.runs)} runs"
        note(f"{self.name}: {done}{self._time_left(left)}; {what}: {outcome}")

    def _time_left(self, left: Sequence[str]) -> str:
        if not left or not self.trained:
            return ""
        rate = (time.monotonic() - self.started) / self.trained
        cost = sum(self.costs[run_id] for run_id in left)
        return f", about {duration(cost * rate / self.jobs)} left"

    def _due(self) -> bool:
        """Whether the last line of any process is old enough; if so, this one takes its place."""
        stamp = self.store.folder / f".progress-{self.name}"
        try:
            with FileLock(f"{stamp}.lock"):
                age = time.time() - stamp.stat().st_mtime if stamp.exists() else -1.0
                fresh = 0 <= age < SECONDS_BETWEEN_LINES  # less than 0: the clock was set back
                if not fresh:
                    stamp.touch()
        except OSError:  # a full disk is told by what has to be written
            return False
        return not fresh
