"""Where data come from: `MUPKIT_DATA`, the cache, the Hugging Face Hub.

The workflow imports this module at every parse, so nothing slow is imported here.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.files import DamagedFileError, read_json

HUB = ("huggingface.co", 443)


def cache_dir() -> Path:
    """Where prepared data are kept: `MUPKIT_CACHE`, or `.cache/mupkit` in the project."""
    given = os.environ.get("MUPKIT_CACHE")
    return Path(given).expanduser() if given else Path(__file__).parents[2] / ".cache" / "mupkit"


def prepared(names: str, counts: Mapping[str, int] | None) -> Path | None:
    """The cache folder of a data set that an earlier run prepared whole, or None.

    Only the usual counts pass: what was prepared from another folder's files must not come back
    under this name once `MUPKIT_DATA` is unset.

    Args:
        names: pattern of the folder's name.
        counts: by split, of the usual set; None if they are not known.
    """
    for meta in sorted(cache_dir().glob(f"{names}/meta.json")):
        with suppress(OSError, DamagedFileError, UserError):
            if read_json(meta, dict[str, Any]).get("counts") == counts:
                return meta.parent
    return None


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
    root = Path(given).expanduser()
    if not root.exists():
        raise UserError(f"MUPKIT_DATA: {root} does not exist; {data_fix(holds, built_in)}")
    return root


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
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
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
