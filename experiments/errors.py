"""The one exception for what the user can fix, and the one for being told to stop."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input or environment: one line that names the file or key, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


class Interrupted(BaseException):
    """This process was told to stop, by a signal or by the end of its workflow; no error.

    The command line says how to go on and exits with status 130.
    """


def unknown(what: str, got: str, allowed: Iterable[str]) -> UserError:
    """The error for a value that is not allowed; it names the nearest one that is."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(got, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {got!r}{hint} (allowed: {', '.join(allowed)})")
