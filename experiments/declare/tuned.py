"""What `tune` found for a family, recorded in tuned.json beside its declarations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import FiniteFloat

from experiments.declare.config import RunConfig
from experiments.errors import UserError
from experiments.files import DamagedFileError, checked, read_json

Number = int | FiniteFloat


@dataclass(frozen=True)
class _Recorded:
    best: dict[str, Number]


def best_point(path: Path, config: type[RunConfig]) -> dict[str, Any] | None:
    """The best point of a search, by key of a configuration; None if there is no file.

    Args:
        path: of tuned.json.
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
