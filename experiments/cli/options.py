"""Options that commands share, and where they print."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

console = Console(highlight=False)

Scale = Annotated[str, typer.Option(help="smoke, small or paper.")]
Data = Annotated[
    str | None,
    typer.Option(help="Data source; by default MUPKIT_DATA, the Hub, or a small built-in one."),
]
Jobs = Annotated[int, typer.Option(help="Processes at once, one thread each.", min=1)]
