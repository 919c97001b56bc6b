"""The one exception for what the user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Wrong input or environment: one line that names the file or key, and the fix.

    The command line prints it without a traceback and exits with status 2.
    """


def unknown(what: str, got: str, allowed: Iterable[str]) -> UserError:
    """The error for a value that is not allowed; it names the nearest one that is."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(got, allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return UserError(f"unknown {what} {got!r}{hint} (allowed: {', '.join(allowed)})")
