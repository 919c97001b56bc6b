"""Functions by name, imported when they are called, so that declaring costs no import."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from experiments.errors import UserError, unknown


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


def load(reference: Reference, by: str) -> Callable[..., Any]:
    """The function of a reference with its arguments, imported when it is needed.

    Args:
        reference: of the function.
        by: who names it, for the error.

    Raises:
        UserError: if there is no such module or function.
    """
    module_name, _, name = name_of(reference).partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and what it imports is not
        raise UserError(f"{by} names {name_of(reference)}; no module {error.name}") from None
    if not hasattr(module, name):
        there = [n for n, x in vars(module).items() if callable(x) and not n.startswith("_")]
        raise unknown(f"function of {module_name}, named by {by}:", name, there)
    function: Callable[..., Any] = getattr(module, name)
    return function if isinstance(reference, str) else partial(function, **reference.arguments)
