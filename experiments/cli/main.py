"""The command line: errors of the user are one line and exit status 2."""

from __future__ import annotations

import errno
import sys

import typer

from experiments.cli import keep, look, pages, train
from experiments.errors import Interrupted, UserError
from experiments.messages import note, prepare_streams
from experiments.runs import places
from experiments.runs.stopping import heed_no_more, heed_signals, in_workflow

app = typer.Typer(
    help="Reproduce Tensor Programs V (µTransfer): train sweeps, draw figures, judge claims.",
    epilog="Whole figures: `snakemake fig1`. One training: "
    "`python -m experiments run transformer_wikitext2 --width 256 --log2lr -8`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for panel, part in {"Look": look, "Pages": pages, "Train": train, "Keep": keep}.items():
    for command in part.app.registered_commands:
        command.rich_help_panel = panel
    app.add_typer(part.app)

STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def _check_checkout() -> None:
    """Results go beside the code, which must not be where packages are installed.

    Raises:
        UserError: if this is no checkout.
    """
    if not (places.ROOT / "Snakefile").is_file():
        raise UserError(
            f"{places.ROOT} is no checkout but an installed copy; clone the repository and run "
            "`python -m experiments` there"
        )


def main() -> None:
    """Run the command line; a UserError becomes one line and exit status 2.

    A signal that ends it becomes one line and status 130; a job leaves the line to its workflow.
    """
    prepare_streams()
    heed_signals()
    try:
        try:
            _check_checkout()
            app()
        finally:
            heed_no_more()
    except Interrupted:
        if not in_workflow():
            note("stopped: finished work is kept; the same command goes on with the rest")
        sys.exit(130)
    except UserError as error:
        note(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in STORAGE_ERRORS:
            raise
        where = f" {error.filename}" if error.filename else ""
        note(f"error: {error.strerror}:{where}; free space or fix the rights, then run it again")
        sys.exit(2)
