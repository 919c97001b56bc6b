"""What `tune` found for a family at a scale, recorded beside the family's declarations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import FiniteFloat

from experiments.declare.config import RunConfig
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import DamagedFileError, checked, read_json

Number = int | FiniteFloat
NAMES: dict[Scale, str] = {"small": "tuned.json", "paper": "tuned_paper.json"}
"""The record of each scale's search; one at `smoke` finds nothing."""


@dataclass(frozen=True)
class _Recorded:
    best: dict[str, Number]


@dataclass(frozen=True)
class Tuned:
    """Base hyperparameters at a scale.

    Attributes:
        best: the winner of a search, by key of a configuration; nothing if none was recorded.
        found_at: the scale of the search; None if none was recorded.
    """

    best: dict[str, Any]
    found_at: Scale | None

    def __str__(self) -> str:
        if self.found_at is None:
            return "base hyperparameters of no search"
        return f"base hyperparameters of the search at the scale {self.found_at}"


def tuned_at(folder: Path, config: type[RunConfig], scale: Scale) -> Tuned:
    """What the search of a scale found, or that of `small` where none of its own is recorded.

    Args:
        folder: of the family.
        config: the class of its configurations.
        scale: at which the values are used.

    Raises:
        DamagedFileError: as `best_point`.
    """
    for searched in dict.fromkeys((scale, "small")):
        if searched in NAMES:
            best = best_point(folder / NAMES[searched], config)
            if best is not None:
                return Tuned(best, searched)
    return Tuned({}, None)


def best_point(path: Path, config: type[RunConfig]) -> dict[str, Any] | None:
    """The best point of a search, by key of a configuration; None if there is no file.

    Args:
        path: of the record.
        config: the class of the family's configurations.

    Raises:
        DamagedFileError: naming the file, the key and the fix, if a key or value is not allowed.
    """
    try:
        best = read_json(path, _Recorded).best
        for key, value in best.items():
            if key not in config.model_fields:
                raise DamagedFileError(f"{path}: best: {key!r} is no key of its family")
            field = config.model_fields[key]
            form: Any = Annotated[field.annotation, key, *field.metadata]
            checked(value, form, f"{path}: best: {key}")
        return dict(best)
    except FileNotFoundError:
        return None
    except (DamagedFileError, UserError) as error:
        raise DamagedFileError(f"{error}; restore it (`git checkout`) or delete it") from None
