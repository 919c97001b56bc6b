"""Options that commands share, and where they print."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console

from experiments.declare.scales import Scale, check_scale

console = Console(highlight=False)


def scale_option(help: str) -> Any:
    """An option for a scale; any other word is a UserError."""
    return typer.Option(help=help, parser=check_scale, metavar="<str>")


ScaleOption = Annotated[Scale, scale_option("smoke, small or paper.")]
DataOption = Annotated[
    str | None,
    typer.Option(help="Data source; by default MUPKIT_DATA, the Hub, or a small built-in one."),
]
JobsOption = Annotated[int, typer.Option(help="Processes at once, one thread each.", min=1)]
