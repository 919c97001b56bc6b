"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.errors import UserError


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all: temporary file, fsync, rename."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well.

    Raises:
        UserError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free space or rights") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free space, then run it again"
        ) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def wait_for_lock(lock: FileLock, reason: str) -> None:
    """Take a lock, which ends with this process at the latest; say so if that means waiting."""
    folder = Path(lock.lock_file).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}; mend its rights") from error
    try:
        lock.acquire(timeout=0)
    except Timeout:
        sys.stderr.write(f"{reason}; waiting for it to end\n")
        lock.acquire()
    except OSError as error:
        raise UserError(f"cannot lock {lock.lock_file}: {error.strerror}") from error
