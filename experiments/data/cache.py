"""Prepared data in a folder of the cache, which is filled under another name and then renamed."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from experiments.errors import UserError
from experiments.files import DamagedFileError, checked, locked, open_regular, read_json, sha256
from experiments.messages import note

T = TypeVar("T")


def cache_key(files: Mapping[str, Iterable[Path]], *more: str) -> str:
    """16 hexadecimal digits of all that decides what is prepared, for the name of its folder.

    Args:
        files: that are read, by split.
        more: whatever else decides, such as a number of the rules.

    Raises:
        UserError: a file that cannot be read.
    """
    try:
        digests = {split: [sha256(path) for path in paths] for split, paths in files.items()}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return _digest({"files": digests, "more": more})


def cached(folder: Path, read: Callable[[Path], T | None], fill: Callable[[Path], None]) -> T:
    """What a cache folder holds, prepared first if it is missing or damaged.

    Two processes never prepare the same folder, and a killed one leaves no partial folder.

    Args:
        folder: of the data.
        read: function of the folder to the data, or None if a file is missing or damaged.
        fill: function of an empty folder that writes the data there.

    Raises:
        UserError: if the cache cannot be written.
    """
    found = read(folder)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.lock"), f"{folder.name} is being prepared"):
            found = read(folder)  # another process may have written it meanwhile
            if found is None:
                if folder.exists():
                    note(f"{folder}: damaged, or of an older version; it is prepared again")
                _write(folder, fill)
                found = read(folder)
    except OSError as error:
        raise UserError(
            f"MUPKIT_CACHE: cannot write {folder} ({error}); set it to a folder with room"
        ) from error
    assert found is not None
    return found


def _write(folder: Path, fill: Callable[[Path], None]) -> None:
    new = Path(f"{folder}.new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    new.mkdir()
    try:
        fill(new)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def write_meta(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """Write what is known of a folder, with the digests of the files in it and of itself.

    Returns:
        What `read_meta` finds there from now on.
    """
    whole = {**meta, "sha256": {path.name: sha256(path) for path in folder.iterdir()}}
    text = json.dumps({**whole, "digest": _digest(whole)}, indent=1)
    (folder / "meta.json").write_text(text, encoding="utf-8")
    return whole


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What is known of a folder; None if a file is missing or not what was written."""
    try:
        meta = read_json(folder / "meta.json", dict[str, Any])
        if meta.pop("digest", None) != _digest(meta):
            return None
        made = checked(meta.get("sha256"), dict[str, str], "its digests")
        whole = all(_sha256_once(folder / name) == digest for name, digest in made.items())
        return meta if whole else None
    except (OSError, DamagedFileError, UserError):
        return None


def _digest(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()[:16]


def _sha256_once(path: Path) -> str:
    """The digest of a file's bytes, which this process computes once for a state of the file."""
    with open_regular(path) as file:
        now = os.fstat(file.fileno())
    return _sha256(path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)


@functools.cache
def _sha256(path: Path, *state: int) -> str:
    return sha256(path)
