"""Options that commands share, and where they print."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from experiments.declare import registry
from experiments.declare.family import Family
from experiments.declare.scales import Scale, check_scale
from experiments.errors import UserError
from experiments.messages import printable

LARGEST_STACK = 4096


def check_stack(word: str) -> str:
    """A number of runs that are trained together, or "auto".

    Raises:
        UserError: any other word.
    """
    if word == "auto" or (word.isdecimal() and 1 <= int(word) <= LARGEST_STACK):
        return word
    raise UserError(f"stack: {word!r} is neither auto nor a number of runs, 1 to {LARGEST_STACK}")


def stack_size(word: str) -> int | None:
    """What `train_runs` takes for it."""
    return None if word == "auto" else int(word)


class _Console(Console):
    """Prints text as it is: neither markup nor codes for the terminal are read out of it."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _Console(highlight=False, markup=False, emoji=False)


def scale_option(help: str) -> Any:
    """An option for a scale; any other word is a UserError."""
    return typer.Option(help=help, parser=check_scale, metavar="<str>")


ScaleOption = Annotated[Scale, scale_option("smoke, small, gpu or paper.")]
DataOption = Annotated[
    str | None,
    typer.Option(help="Data source; by default MUPKIT_DATA, the Hub, or a small built-in one."),
]
StackOption = Annotated[
    str,
    typer.Option(
        help="Runs of one shape that are trained together, or auto: as many as the GPU holds, one "
        "on a CPU.",
        metavar="N|auto",
        parser=check_stack,
    ),
]
JobsOption = Annotated[int, typer.Option(help="Processes at once, one thread each.", min=1)]


def keys_table(family: Family) -> Table:
    """The keys of a family's runs: type, value where none is given, and meaning."""
    table = Table(box=None, pad_edge=False)
    table.add_column("key", no_wrap=True)
    table.add_column("type", max_width=14)
    table.add_column("in `run`", no_wrap=True)
    table.add_column("meaning")
    for key, field in family.config.model_fields.items():
        value = family.example.get(key, None if field.is_required() else field.default)
        shown = "" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)
        table.add_row(key, _type_name(field.annotation), shown, field.description or "")
    return table


def _type_name(annotation: Any) -> str:
    """A type as a user writes its values, such as "float", or the words that are allowed."""
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return " or ".join(kind.__name__ for kind in kinds)


class CommandOfFamily(TyperCommand):
    """A command whose help lists the keys of the family that is named before `--help`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-"):
            ctx.obj = args[0]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        family = None if ctx.obj is None else registry.family(ctx.obj)
        super().format_help(ctx, formatter)
        if family is not None:
            console.print(f"Keys of {family.name}, each an option, such as --width 256:\n")
            console.print(keys_table(family))
