"""Base shape files of the `mup` package (.bsh): a mapping from names to lists, in YAML.

They are written as one line per parameter, `name: [64, null]`, and read in that form or as the
block lists that `mup` writes. null is a finite dimension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMENT = "# base shapes: a number is the base size of a width, null a finite dimension\n"
_KEY = re.compile(r"""^(['"]?)([^'":\s][^'":]*)\1:\s*(\[.*\])?$""")
_PLAIN = re.compile(r"^[A-Za-z_]\w*(\.\w+)+$")
_ITEM = re.compile(r"^\s*-\s+(\d+|null|~)$")


def save(shapes: Mapping[str, Sequence[int | None]], file: str | Path) -> None:
    """Write base shapes by parameter name."""
    lines = (f"{_key(name)}: {json.dumps(list(shape))}\n" for name, shape in shapes.items())
    Path(file).write_text(COMMENT + "".join(lines), encoding="utf-8")


def _key(name: str) -> str:
    """A name as YAML reads it back: quoted where it might be a number or a word such as `null`."""
    return name if _PLAIN.match(name) else json.dumps(name)


def load(file: str | Path) -> dict[str, list[int | None]]:
    """Read base shapes by parameter name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a line is not of the format, naming the file and the line.
    """
    shapes: dict[str, list[int | None]] = {}
    current: list[int | None] | None = None
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (item := _ITEM.match(line)) and current is not None:
            current.append(int(item[1]) if item[1].isdigit() else None)
        elif key := _KEY.match(line):
            current = _flow(key[3]) if key[3] else []
            if current is None:
                raise _error(file, number, line)
            shapes[key[2]] = current
        else:
            raise _error(file, number, line)
    if not shapes:
        raise ValueError(f"{file} holds no base shapes")
    return shapes


def _flow(text: str) -> list[int | None] | None:
    """A list such as [64, null], or None if it is not one."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        return None
    return values if all(v is None or type(v) is int for v in values) else None


def _error(file: str | Path, number: int, line: str) -> ValueError:
    return ValueError(
        f"{file}, line {number}: {line.strip()!r} is not a base shape; expected a line such as "
        "'decoder.weight: [null, 64]', or lines '- 64' under 'decoder.weight:'"
    )
