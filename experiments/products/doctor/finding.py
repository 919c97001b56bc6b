"""One line of the doctor's report, with what `fix` needs to act on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.runs.store import Stored


@dataclass(frozen=True, eq=False)
class Finding:
    """One line of the report.

    Attributes:
        text: what was found.
        remedy: what `fix` does about it, or the user should.
        files: what `fix` removes.
        runs: what `fix` removes after it has looked at them again.
        stale: whether `fix` needs `stale` too.
        note: nothing is wrong.
    """

    text: str
    remedy: str
    files: tuple[Path, ...] = ()
    runs: tuple[Stored, ...] = ()
    stale: bool = False
    note: bool = False

    @property
    def fixable(self) -> bool:
        """Whether `fix` can do something about it."""
        return bool(self.files or self.runs)

    def line(self, done: bool | None, fixing: bool) -> str:
        """The line of the report.

        Args:
            done: whether `fix` did something about it, None if it was not meant to.
            fixing: whether `fix` was asked for.
        """
        kind = "note: " if self.note else ""
        if not self.fixable or (self.note and not done):
            return f"{kind}{self.text}; {self.remedy}"
        if done:
            return f"{kind}{self.text}; fixed: {self.remedy}"
        how = "--fix --stale" if self.stale else "--fix"
        busy = "in use, not fixed: " if fixing and done is False else ""
        return f"{kind}{self.text}; {busy}{how}: {self.remedy}"
