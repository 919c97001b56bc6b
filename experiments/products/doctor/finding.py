"""One line of the doctor's report, with what `fix` needs to act on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.files import irregular
from experiments.runs.store import Stored

NOT_TOUCHED = "not touched"


@dataclass(frozen=True, eq=False)
class Finding:
    """One line of the report.

    Attributes:
        text: what was found.
        remedy: what `fix` does about it, or the user should.
        files: what `fix` removes.
        prepared: folders of the cache that `fix` removes after it has looked at them again.
        runs: what `fix` removes after it has looked at them again.
        stale: whether `fix` needs `stale` too.
        note: nothing is wrong.
    """

    text: str
    remedy: str
    files: tuple[Path, ...] = ()
    prepared: tuple[Path, ...] = ()
    runs: tuple[Stored, ...] = ()
    stale: bool = False
    note: bool = False

    @property
    def fixable(self) -> bool:
        """Whether `fix` can do something about it."""
        return bool(self.files or self.prepared or self.runs)

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


def misplaced(*paths: Path) -> Iterator[Finding]:
    """What stands where a file of ours belongs and is no regular file, such as a folder."""
    for path in paths:
        if os.path.lexists(path) and (kind := irregular(path)):
            yield Finding(f"{path}: {kind} where a file of ours belongs", "move it away")
