"""What the cache holds: prepared data, and what is known of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.data.cache import read_meta
from experiments.data.places import cache_dir
from experiments.errors import UserError
from experiments.files import DamagedFileError, read_json
from experiments.products.doctor.finding import NOT_TOUCHED, Finding, misplaced
from experiments.products.doctor.folders import files_in
from experiments.runs.planning import Speed


def cache() -> Iterator[Finding]:
    """Findings about whatever is in the cache; what others keep there is left out."""
    for path in files_in(cache_dir()):
        try:
            if path.suffix == ".json" and path.name.startswith("speed-"):
                yield from _measured(path, Speed, "`python -m experiments plan` times it again")
            elif path.suffix == ".json" and path.name.startswith("machine-"):
                from experiments.train.process import Products  # imports torch

                yield from _measured(path, Products, "the next training chooses again")
            elif path.suffix == ".lock":
                yield from misplaced(path)
            elif path.is_dir() and Path(f"{path}.lock").exists() and read_meta(path) is None:
                again = "removed, whatever needs it next prepares it again"
                yield Finding(f"{path}: damaged, or of an older version", again, prepared=(path,))
        except UserError as error:
            yield Finding(str(error), NOT_TOUCHED)


def _measured(path: Path, form: type[Any], again: str) -> Iterator[Finding]:
    if there := [*misplaced(path)]:
        yield from there
        return
    try:
        read_json(path, form)
    except DamagedFileError as error:
        yield Finding(str(error), f"removed, {again}", (path,))
