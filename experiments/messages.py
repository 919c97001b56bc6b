"""Messages for people on stderr, one line each."""

from __future__ import annotations

import io
import os
import sys

_hushed = False


def prepare_streams() -> None:
    """Let no message be an error: of a closed stream, or of a character that an encoding lacks.

    What is printed to a closed stream is lost; a character is spelled out, as "\\xb5". It is called
    before a file is opened that would get the closed stream's number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)  # a process of ours has it, too
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    """A text whose control characters, but for new lines, are spelled out, as "\\x1b".

    What was read from a file, or the name of a folder, must not steer the terminal.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def hush() -> None:
    """Say nothing more: another process that does the same work says it."""
    global _hushed
    _hushed = True


def note(text: str) -> None:
    """One line on stderr, in one write, so that lines of several processes do not mix."""
    if _hushed:
        return
    sys.stderr.write(printable(text).replace("\n", "\\n") + "\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 3 min, 2 h 10 min, 29 h, 3 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes // 60
    if hours < 24:
        return f"{hours} h {minutes % 60:02d} min"
    if hours < 48:
        return f"{round(minutes / 60)} h"
    return f"{round(minutes / (24 * 60)):,} days"
