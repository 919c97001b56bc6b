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
_ITEM = re.compile(r"^\s*-\s+(\S+)$")
_SIZE = re.compile(r"[1-9][0-9]{0,17}")  # of a tensor: torch counts in 64 bits
_FINITE = "null", "~"
MOST = 64 * 2**20  # bytes of a file
SHOWN = 80  # characters of a line, in an error


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
        ValueError: if it is no regular file of text, or a line is not of the format, has a size
            that no tensor has or a name for the second time, naming the file and the line.
    """
    path = Path(file)
    if path.exists() and (not path.is_file() or path.stat().st_size > MOST):
        raise ValueError(f"{file} is no regular file of at most {MOST} bytes, so no base shapes")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not text, so it holds no base shapes") from None
    shapes: dict[str, list[int | None]] = {}
    current: list[int | None] | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (item := _ITEM.match(line)) and current is not None:
            if (sizes := _sizes([item[1]])) is None:
                raise _error(file, number, line)
            current += sizes
        elif key := _KEY.match(line):
            current = _flow(key[3]) if key[3] else []
            if current is None:
                raise _error(file, number, line)
            if key[2] in shapes:
                raise ValueError(f"{file}, line {number}: {key[2]} has base shapes already")
            shapes[key[2]] = current
        else:
            raise _error(file, number, line)
    if not shapes:
        raise ValueError(f"{file} holds no base shapes")
    return shapes


def _flow(text: str) -> list[int | None] | None:
    """A list such as [64, null], or None if it is not one."""
    inside = text[1:-1].strip()
    return _sizes([item.strip() for item in inside.split(",")]) if inside else []


def _sizes(items: Sequence[str]) -> list[int | None] | None:
    """Sizes as numbers, or None if one is no size of a tensor."""
    if not all(item in _FINITE or _SIZE.fullmatch(item) for item in items):
        return None
    return [None if item in _FINITE else int(item) for item in items]


def _error(file: str | Path, number: int, line: str) -> ValueError:
    shown = line.strip() if len(line) < SHOWN else f"{line.strip()[:SHOWN]}..."
    return ValueError(
        f"{file}, line {number}: {shown!r} is not a base shape; expected a line such as "
        "'decoder.weight: [null, 64]', or lines '- 64' under 'decoder.weight:'"
    )
