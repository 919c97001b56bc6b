"""Writing files so that a reader never sees half of one, and reading them without trust."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from filelock import FileLock, SoftFileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from experiments.errors import UserError
from experiments.messages import note

# A temporary file of `atomic_path`: .name.suffix.mupkit-12345678.suffix. The word in it says whose
# it is: other programs leave hidden files of many kinds beside ours.
TEMPORARY = re.compile(r"\.(?P<name>.+)\.mupkit-[a-z0-9_]{8}(?P<suffix>\.[A-Za-z0-9]+)?")
AT_ONCE = 8  # processes that write one file, whose temporary files are looked for
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
EMPTY_SECONDS = 1.0  # a new lock file is empty for microseconds
TRIES = 10  # to open a file that another node replaces or removes again and again

T = TypeVar("T")
LARGEST = {"json": 64 * 2**20, "parquet": 4 * 2**30}  # bytes of a file of ours that is read
KINDS = {  # of what may stand where a regular file belongs
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


class DamagedFileError(Exception):
    """A file that is not what we wrote; the message names it and says what is wrong with it."""


def read_regular(path: Path, most: int = LARGEST["json"]) -> bytes:
    """The bytes of a file of ours; a link is not followed, and nothing waits for a pipe.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        FileNotFoundError: nothing has that name.
        DamagedFileError: it is no regular file, or larger.
        UserError: it cannot be read, as without the rights to; it may well be whole.
    """

    def content() -> bytes:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > most:
                raise DamagedFileError(f"{path}: larger than {most} bytes")
            return file.read()

    try:
        return _unless_stale(content)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise FileNotFoundError(path) from None
        raise UserError(
            f"cannot read {path}: {os.strerror(error.errno or 0)}; fix its rights or its disk, "
            "then run it again"
        ) from error


def _unless_stale(do: Callable[[], T]) -> T:
    """What a function gives; again if another node took away the file that it had opened (NFS)."""
    for _ in range(TRIES - 1):
        try:
            return do()
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
    return do()


def open_regular(path: Path) -> BinaryIO:
    """A file of ours to read its bytes; a link is not followed, and nothing waits for a pipe.

    Raises:
        DamagedFileError: it is no regular file.
        OSError: it is missing or cannot be opened.
    """
    if kind := irregular(path):
        raise DamagedFileError(f"{path}: {kind}, not a regular file")
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")


def irregular(path: Path) -> str:
    """What stands where a regular file belongs, such as "a folder"; "" if it is a regular file.

    Raises:
        OSError: nothing has that name.
    """
    mode = path.lstat().st_mode
    return "" if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "something else")


def read_json(path: Path, form: type[T]) -> T:
    """What a JSON file of ours holds.

    Args:
        path: of the file.
        form: a type that pydantic knows: a dataclass, a dict, a list of such.

    Raises:
        FileNotFoundError, UserError: as `read_regular`.
        DamagedFileError: it is no JSON, nested too deeply, too large or of another form.
    """
    return parse_json(read_regular(path), form, str(path))


def parse_json(content: bytes | str, form: type[T], name: str) -> T:
    """JSON of a form, as `read_json`; `name` is how an error calls its file."""
    try:
        found: T = _adapter(form).validate_json(content, strict=True)
        return found
    except ValidationError as error:
        raise DamagedFileError(f"{name}: {_first(error)}") from None


def checked(value: object, form: type[T], name: str) -> T:
    """A value of a form, as `parse_json`, where JSON was read already."""
    try:
        found: T = _adapter(form).validate_python(value, strict=True)
        return found
    except ValidationError as error:
        raise DamagedFileError(f"{name}: {_first(error)}") from None


_adapter: Callable[[Any], TypeAdapter[Any]] = lru_cache(TypeAdapter)


def _first(error: ValidationError) -> str:
    """What is wrong first, and where."""
    first = error.errors(include_url=False)[0]
    return "".join(f"{str(part)[:50]!r}: " for part in first["loc"]) + first["msg"]


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` whole or not at all: temporary file, fsync, rename."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well.

    The temporary file is locked while its process lives. Files that killed processes left for the
    same `path` are removed first, so work that is repeated leaves nothing behind. The folder is not
    looked through, so that a write costs the same however many files are in it.

    Raises:
        UserError: if the disk is full or the folder cannot be written; nothing is left behind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _locked_temporary(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # after the replacement the name may be another process's
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise
    finally:
        os.close(handle)


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """A new temporary file for `path` with a lock on it that dies with this process.

    Its name has the first number that is free, and files that killed processes left at the first
    few numbers are removed: more processes than that hardly ever write one file at once.
    """
    names = (path.with_name(f".{path.name}.mupkit-{n:08d}{path.suffix}") for n in itertools.count())
    first = [*itertools.islice(names, AT_ONCE)]
    for left in first:
        remove_unheld(left)
    for name in itertools.chain(first, names):
        with suppress(FileExistsError):
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Before it was locked, another process may have removed it as one that is left behind.
            if _has_name(handle, name):
                return handle, name
            os.close(handle)
    raise AssertionError  # there is always a further number


def _has_name(handle: int, name: Path) -> bool:
    """Whether an open file has this name still."""
    look_anew(name.parent)
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(name))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False


def look_anew(folder: Path) -> None:
    """Make sure that what other nodes did in a folder is seen, as far as it is there.

    Over NFS a node takes a file to be missing for up to a minute after another node made it, unless
    the folder is opened: then it asks the server whether the folder has changed.
    """
    with suppress(OSError):
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def cannot_write(path: Path, error: OSError) -> UserError:
    """The error for a full disk, a read-only folder and the like, with the fix."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return UserError(
        f"cannot write {path}: {reason}; free space or fix the permissions of {path.parent}, then "
        "run it again; finished work is kept"
    )


def temporaries(folder: Path, name: str | None = None) -> list[Path]:
    """Temporary files of `atomic_path` in a folder, including those that are being written.

    Args:
        folder: where to look; subfolders are left out.
        name: of the file that they would have become; None for any.
    """
    if not folder.is_dir():
        return []
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            becomes = will_be(entry.name)
            if becomes is not None and name in (None, becomes):
                found.append(Path(entry.path))
    return sorted(found)


def will_be(name: str) -> str | None:
    """The name that a temporary file of `atomic_path` gets in the end; None if it is another."""
    match = TEMPORARY.fullmatch(name)
    return match["name"] if match and match["name"].endswith(match["suffix"] or "") else None


def _open_to_lock(path: Path) -> int:
    """A descriptor to lock; over NFS a lock that excludes others needs the right to write."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)


def held(path: Path) -> bool:
    """Whether a process holds the lock on a file; True where that cannot be known."""
    try:
        if irregular(path):
            return True
        handle = _open_to_lock(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def remove_unheld(path: Path) -> bool:
    """Remove a lock or temporary file unless a process holds it; return whether it is gone.

    The lock is held during the removal, so that no process can take it in between; one that waits
    for it then sees that the file no longer has a name.
    """
    try:
        if irregular(path):
            return False
        handle = _open_to_lock(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _has_name(handle, path):  # by now it is another file's, which may be held
            return False
        path.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


@contextmanager
def locked(path: Path, reason: str) -> Iterator[None]:
    """Hold the lock on a file, after waiting for it if need be; see `take_lock`."""
    lock = FileLock(path)
    take_lock(lock, reason)
    try:
        yield
    finally:
        lock.release()


def take_lock(
    lock: FileLock,
    reason: str,
    wait: bool = True,
    cancel: Callable[[], bool] | None = None,
) -> bool:
    """Take a lock, which ends with this process at the latest; return whether it was taken.

    What another node did in the lock's folder before is then seen (`look_anew`). Where the file
    system does not know such locks, the lock is the file's existence.

    Args:
        lock: on any file; its folder is made.
        reason: why another process may hold it, said on stderr if this one waits; "" is not.
        wait: for a lock that another process holds.
        cancel: asked while it waits; True ends the waiting.

    Raises:
        UserError: if the lock's file cannot be written, is no regular file, or cannot be locked.
    """
    path = Path(lock.lock_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            if kind := irregular(path):
                raise UserError(f"{path}: {kind} where a lock file belongs; move it away")
        with suppress(Timeout):
            _unless_stale(lambda: lock.acquire(timeout=0))
            look_anew(path.parent)
            return True
        if isinstance(lock, SoftFileLock) and _left_empty(path):
            note(f"{path}: left from a system with locks, which this one has not; taken over")
            path.unlink(missing_ok=True)
        elif not wait:
            return False
        elif reason:
            note(f"{reason}; waiting for it to end")
        with suppress(Timeout):
            _unless_stale(lambda: lock.acquire(cancel_check=cancel))
            look_anew(path.parent)
            return True
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise UserError(
                f"cannot lock {path}: its file system has no locks ({os.strerror(error.errno)}); "
                "move the folder to one that has"
            ) from error
        raise cannot_write(path, error) from error
    return False


def _left_empty(path: Path) -> bool:
    """Whether a lock file stays empty: one that is a lock by its existence names its process."""
    for seconds in (0.0, EMPTY_SECONDS):
        time.sleep(seconds)
        try:
            if path.stat().st_size:
                return False
        except FileNotFoundError:
            return False
    return True


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's bytes; a link is followed.

    Raises:
        OSError: the file cannot be read, or is no regular one.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()
