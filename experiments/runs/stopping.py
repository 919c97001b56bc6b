"""How processes are told to stop: by a signal, or by the workflow that they work for.

A workflow that is told to stop waits for its jobs, and a signal to it does not reach them. So it
keeps a file while it goes on, named in the environment of its jobs, and they look for it between
two runs.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import FrameType

from experiments.errors import Interrupted
from experiments.files import cannot_write

VARIABLE = "MUPKIT_WORKFLOW"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def in_workflow() -> bool:
    """Whether this process is a job of a workflow."""
    return VARIABLE in os.environ


def stopped() -> bool:
    """Whether the workflow that this process works for has ended or is about to."""
    return in_workflow() and not Path(os.environ[VARIABLE]).exists()


def goes_on(folder: Path) -> Path:
    """Make the file that says that the workflow of this process goes on, for jobs from now on.

    Call it while no other workflow runs in `folder`: what killed ones left there is removed, so
    that their jobs stop.

    Raises:
        UserError: if it cannot be written.
    """
    path = (folder / f".workflow-{os.getpid()}").absolute()
    try:
        for left in folder.glob(".workflow-*"):
            left.unlink(missing_ok=True)
        path.touch()
    except OSError as error:
        raise cannot_write(path, error) from error
    os.environ[VARIABLE] = str(path)
    return path


def heed_signals() -> None:
    """Let signals that end a process raise `Interrupted`, except those that it ignores."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def heed_no_more() -> None:
    """Let these signals end this process at once: while Python ends, nobody catches Interrupted."""
    for number in SIGNALS:
        if signal.getsignal(number) is _interrupt:
            signal.signal(number, signal.SIG_DFL)


def let_die() -> None:
    """Let Ctrl-C end this worker at once and without a word: its parent says what there is."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted
