"""Functions by name, imported when they are called, so that declaring costs no import."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True)
class Call:
    """A function with arguments: imported when it is called, so that declaring costs nothing.

    Args:
        function: "module:function".
        arguments: what it gets beside the table.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


Reference = str | Call  # "module:function", or one with arguments


def name_of(reference: Reference) -> str:
    """The "module:function" of a reference."""
    return reference if isinstance(reference, str) else reference.function


def load(reference: Reference) -> Callable[..., Any]:
    """The function of a reference with its arguments, imported when it is needed."""
    module, _, name = name_of(reference).partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function if isinstance(reference, str) else partial(function, **reference.arguments)
