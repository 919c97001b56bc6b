"""Where data come from: `MUPKIT_DATA`, the cache, the Hugging Face Hub.

The workflow imports this module at every parse, so nothing slow is imported here.
"""

from __future__ import annotations

import functools
import os
import re
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import read_json

HUB = ("huggingface.co", 443)
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")  # any of them


def cache_dir() -> Path:
    """Where prepared data are kept: `MUPKIT_CACHE`, or `.cache/mupkit` in the project.

    Raises:
        UserError: it is a file or inside one, or begins with `~` and the name of no user.
    """
    given = os.environ.get("MUPKIT_CACHE")
    path = Path(__file__).parents[2] / ".cache" / "mupkit"
    if given:
        path = Path(os.path.expanduser(given))
    if path.parts[:1] and path.parts[0].startswith("~"):
        raise UserError(f"MUPKIT_CACHE: {given}: there is no such user; give the whole path")
    above = next((p for p in (path, *path.parents) if os.path.exists(p)), None)
    if above is not None and not os.path.isdir(above):
        raise UserError(f"MUPKIT_CACHE: cannot write {path}: {above} is a file; set it to a folder")
    return path


def prepared(names: str, is_published: Callable[[Mapping[str, Any]], bool]) -> Path | None:
    """The cache folder of a data set that an earlier run prepared, or None.

    Only the published set passes: what was prepared from another folder's files must not come back
    under this name once `MUPKIT_DATA` is unset.

    Args:
        names: pattern of the folder's name.
        is_published: whether what is known of a folder is what is known of the published set.
    """
    for meta in sorted(cache_dir().glob(f"{names}/meta.json")):
        with suppress(Exception):  # whatever a file of another form makes the comparison raise
            if is_published(read_json(meta, dict[str, Any])):
                return meta.parent
    return None


def in_library_cache(repository: str, config: str) -> bool:
    """Whether the library `datasets` keeps a data set of the Hub, which it loads without network.

    Args:
        repository: OWNER/NAME on the Hub.
        config: name of its configuration.
    """
    home = os.environ.get("HF_HOME") or Path(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    cache = os.path.expanduser(os.environ.get("HF_DATASETS_CACHE") or Path(home, "datasets"))
    folder = Path(cache, repository.replace("/", "___"), config)
    return any(folder.glob("*/*/dataset_info.json"))


def data_root(holds: str, built_in: str = "") -> Path | None:
    """The folder that `MUPKIT_DATA` names, or None if the variable is not set.

    Args:
        holds, built_in: as in `data_fix`.

    Raises:
        UserError: it does not exist; the message says what it should hold.
    """
    given = os.environ.get("MUPKIT_DATA")
    if not given:
        return None
    root = Path(os.path.expanduser(given))
    if not os.path.isdir(root):
        fault = "is not a folder" if os.path.exists(root) else "does not exist"
        raise UserError(f"MUPKIT_DATA: {root} {fault}; {data_fix(holds, built_in)}")
    return root


def split_files(
    folder: str, splits: Mapping[str, str], built_in: str = ""
) -> dict[str, list[Path]] | None:
    """The Parquet files of each split in a folder of `MUPKIT_DATA`, or None if it is not set.

    Args:
        folder: inside the one that the variable names.
        splits: by our name, that in the files' names.
        built_in: as in `data_fix`.

    Raises:
        UserError: the folder, a split or a file of its series is missing.
    """
    root = data_root(folder, built_in)
    if root is None:
        return None
    found = {split: series(root / folder, name) for split, name in splits.items()}
    absent = [name for split, name in splits.items() if not found[split]]
    if absent:
        more = f", or unset MUPKIT_DATA, or run with data={built_in}" if built_in else ""
        raise UserError(
            f"MUPKIT_DATA: {root / folder} does not hold {looked_for(absent)}; copy the files "
            f"there{more}"
        )
    return found


def series(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split in order, in either layout of the Hub; none if there are none.

    They are SPLIT-0000I-of-0000N.parquet, all N of them, or SPLIT/000I.parquet from 0 on.

    Raises:
        UserError: a file is missing, or one of another series is there.
    """
    flat = sorted(path.name for path in folder.glob(f"{split}-*.parquet"))
    nested = sorted(f"{split}/{path.name}" for path in (folder / split).glob("*.parquet"))
    found = flat + nested
    if not found:
        return []
    wanted = [f"{split}/{i:04d}.parquet" for i in range(len(nested))]
    if flat:
        last = re.fullmatch(rf"{split}-\d{{5}}-of-(\d{{5}})\.parquet", flat[-1])
        count = int(last[1]) if last else 1
        wanted = [f"{split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    strange = sorted({*found} ^ {*wanted})
    if strange:
        fault = "is missing" if strange[0] in wanted else "is of another series"
        raise UserError(
            f"MUPKIT_DATA: {folder / strange[0]} {fault}: found {len(found)} files of {split}, "
            f"wanted the {len(wanted)} of {wanted[0]} to {wanted[-1]}"
        )
    return [folder / name for name in found]


def looked_for(splits: Iterable[str]) -> str:
    """The names of the files that `series` looks for, for messages."""
    return ", ".join(f"{split}-0000I-of-0000N.parquet or {split}/000I.parquet" for split in splits)


def data_fix(holds: str, built_in: str = "") -> str:
    """The fix where `MUPKIT_DATA` lacks some data, for the end of an error.

    Args:
        holds: what the folder should hold.
        built_in: the data source that needs no folder, if there is one.
    """
    fix = f"set MUPKIT_DATA to the folder that holds {holds}"
    return f"{fix}, or unset it, or run with built-in data: data={built_in}" if built_in else fix


@functools.cache
def hub_reachable(seconds: float = 1.0) -> bool:
    """Whether the Hugging Face Hub accepts a connection within some seconds."""
    if any(os.environ.get(name, "").lower() in ("1", "on", "yes", "true") for name in OFFLINE):
        return False
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(HUB, timeout=seconds).close()
        except OSError:
            return
        connected.set()

    # In a thread, because the time-out of a connection does not bound the look-up of its name.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return connected.is_set()
