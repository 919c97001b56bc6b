"""Progress lines while runs train: one now and then, from whichever process is next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from experiments.declare.config import RunConfig
from experiments.errors import UserError
from experiments.files import DamagedFileError, locked, read_regular, write_atomically
from experiments.messages import duration, note
from experiments.runs.planning import known_best, seconds_left
from experiments.runs.store import Record, Store
from experiments.runs.training import missing

SECONDS_BETWEEN_LINES = 10.0
SHARE = 0.02  # of the time that lines may take
PRIOR = 30.0  # seconds of training that count as much as the prediction


class Progress:
    """Lines such as "fig1: 37 of 128 runs, about 4 min left; mup width 64 ...: loss 4.21".

    The time left is that of `planning`, times how much longer than predicted the runs of this
    process take.

    Several processes train for one product. The first one to finish a run after the last line is
    old enough writes the next line. Only then are the runs counted, so that telling the progress of
    many costs a small share of the time, not more with each run.

    Args:
        name: of the figure or table.
        runs: all of them.
        store: where they are.
        jobs: how many processes train at once.
        stack: how many runs are trained together at most, as of `training.train_runs`.
        following: the runs that will follow from these, an estimate; asked for when the first line
            is written.
        what: that the runs are, in words.
    """

    def __init__(
        self,
        name: str,
        runs: Sequence[RunConfig],
        store: Store,
        jobs: int,
        stack: int | None = 1,
        following: Callable[[], Sequence[RunConfig]] = tuple,
        what: str = "runs",
    ):
        self.name, self.store, self.jobs = name, store, jobs
        self.following, self.what = following, what
        self.runs = {run.id: run for run in runs}
        self.speed = replace(known_best(jobs, stack), process=0.0)  # processes have started
        self.took = self.predicted = PRIOR
        self.known = set(filter(store.looks_finished, self.runs))
        self.left = [run_id for run_id in self.runs if run_id not in self.known]
        self.between = SECONDS_BETWEEN_LINES
        self.stamp = store.folder / f".progress-{name}"
        if self.left:
            self._begin()

    def __call__(self, record: Record) -> None:
        """Count a finished run and write a line if one is due; the last one is written once."""
        if record.id not in self.known and not record.provenance.derived_from:
            self.took += record.provenance.seconds
            together, steps = record.provenance.stacked or 1, len(record.losses)
            self.predicted += self.speed.seconds(self.runs[record.id], steps, together)
        if not self._all_done() and self._told_lately():
            return
        start = time.perf_counter()
        self.left = [run_id for run_id in self.left if not self.store.looks_finished(run_id)]
        done = self._done(len(self.left))
        if not self._due(done, last=not self.left):
            return
        outcome = "diverged" if record.diverged else f"loss {record.final_loss:.3f}"
        what = self.runs[record.id].describe()
        note(f"{self.name}: {done}{self._time_left(self.left)}; {what}: {outcome}")
        line = time.perf_counter() - start
        self.between = max(SECONDS_BETWEEN_LINES, line / SHARE)

    def _all_done(self) -> bool:
        """Whether no run is left; runs that are found done are not looked at again."""
        while self.left and self.store.looks_finished(self.left[-1]):
            self.left.pop()
        return not self.left

    @cached_property
    def _to_follow(self) -> list[RunConfig]:
        return missing(self.following(), self.store)

    def _time_left(self, left: Sequence[str]) -> str:
        own, more = [self.runs[run_id] for run_id in left], self._to_follow
        if not own and not more:
            return ""
        seconds = sum(seconds_left(runs, self.speed, self.jobs) for runs in (own, more))
        follow = f", and {len(more)} that follow" if more else ""
        return f"{follow}, about {duration(seconds * self.took / self.predicted)} left"

    def _done(self, left: int) -> str:
        return f"{len(self.runs) - left} of {len(self.runs)} {self.what}"

    def _told_lately(self) -> bool:
        """Whether a process wrote a line a short time ago; below 0: the clock was set back."""
        try:
            return 0 <= time.time() - self.stamp.stat().st_mtime < self.between
        except OSError:
            return False

    def _begin(self) -> None:
        """Forget that all runs were done once, if they are not any more."""
        with suppress(OSError, UserError), self._locked():
            if self._last() == self._done(0):
                self.stamp.unlink()

    def _due(self, done: str, last: bool) -> bool:
        """Whether the last line of any process is old enough; if so, this one takes its place."""
        try:
            with self._locked():
                before = self._last()
                due = before != done
                if before is not None and not last:
                    due = not self._told_lately()
                if due:
                    write_atomically(self.stamp, done.encode())
        except (OSError, UserError):  # a full disk is told by what has to be written
            return False
        return due

    def _last(self) -> str | None:
        """How many runs the last line counted; None if there was none, or that is not known."""
        try:
            return read_regular(self.stamp).decode(errors="replace")
        except (FileNotFoundError, DamagedFileError):
            return None

    def _locked(self) -> AbstractContextManager[None]:
        return locked(Path(f"{self.stamp}.lock"), "")
