"""Options that commands share, and where they print."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from experiments.declare.scales import Scale, check_scale
from experiments.messages import printable


class _Console(Console):
    """Prints text as it is: neither markup nor codes for the terminal are read out of it."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


console = _Console(highlight=False, markup=False, emoji=False)


def scale_option(help: str) -> Any:
    """An option for a scale; any other word is a UserError."""
    return typer.Option(help=help, parser=check_scale, metavar="<str>")


ScaleOption = Annotated[Scale, scale_option("smoke, small or paper.")]
DataOption = Annotated[
    str | None,
    typer.Option(help="Data source; by default MUPKIT_DATA, the Hub, or a small built-in one."),
]
JobsOption = Annotated[int, typer.Option(help="Processes at once, one thread each.", min=1)]
