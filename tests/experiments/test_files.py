"""Files that are whole or not there: left-behind temporaries, locks, a full or read-only disk."""

import errno
import fcntl
import multiprocessing
import os
import signal
import struct
import time

import pytest
from filelock import FileLock

from experiments import files
from experiments.errors import UserError


def _write_and_hang(path, ready) -> None:
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(b"half")
        ready.set()
        time.sleep(60)


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing tmp_path/file.txt."""
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_write_and_hang, args=(tmp_path / "file.txt", ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path, writer) -> None:
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    (left,) = files.temporaries(tmp_path)
    assert not files.held(left)
    other = tmp_path / "other.txt"
    files.write_atomically(other, b"other")
    assert left.exists()
    files.write_atomically(tmp_path / "file.txt", b"whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "other.txt"]


def test_what_a_living_process_writes_is_not_touched(tmp_path, writer) -> None:
    (temporary,) = files.temporaries(tmp_path)
    assert files.held(temporary)
    assert not files.remove_unheld(temporary)
    files.write_atomically(tmp_path / "file.txt", b"whole")
    assert temporary.read_bytes() == b"half"


def test_a_temporary_file_that_lost_its_name_is_not_taken_for_ours(tmp_path, monkeypatch) -> None:
    """Between its making and its lock another process may remove it and make its own."""
    path, flock = tmp_path / "file.txt", files.fcntl.flock

    def late(handle, how):
        monkeypatch.setattr(files.fcntl, "flock", flock)
        (temporary,) = files.temporaries(tmp_path)
        temporary.unlink()
        temporary.write_bytes(b"another's")
        flock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with files.atomic_path(path) as mine:
        mine.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    (others,) = files.temporaries(tmp_path)
    assert others.read_bytes() == b"another's"


def test_a_file_that_came_under_the_name_of_one_left_behind_stays(tmp_path, monkeypatch) -> None:
    """Before it is locked, a file may get its final name, and another process make the next."""
    temporary, flock = tmp_path / ".file.txt.mupkit-00000000.txt", files.fcntl.flock
    temporary.write_bytes(b"whole")

    def late(handle, how):
        monkeypatch.setattr(files.fcntl, "flock", flock)
        temporary.rename(tmp_path / "file.txt")
        temporary.write_bytes(b"another's")
        flock(handle, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    assert not files.remove_unheld(temporary)
    assert temporary.read_bytes() == b"another's"


def test_a_write_ends_without_the_temporary_file_of_the_next(tmp_path, monkeypatch) -> None:
    """Once a file has its name, its temporary name may be that of another process's file."""
    path, replace = tmp_path / "file.txt", type(tmp_path).replace

    def replace_and_begin(temporary, target):
        replace(temporary, target)
        temporary.write_bytes(b"another's")

    monkeypatch.setattr(type(tmp_path), "replace", replace_and_begin)
    files.write_atomically(path, b"whole")
    (others,) = files.temporaries(tmp_path)
    assert others.read_bytes() == b"another's"


def test_a_write_does_not_look_through_its_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files.os, "scandir", None)
    monkeypatch.setattr(files.os, "listdir", None)
    files.write_atomically(tmp_path / "file.txt", b"whole")


def test_other_hidden_files_are_no_temporaries(tmp_path) -> None:
    others = ".bash_history.20240101", ".zshrc.original", ".viminfo.backup__", ".a.txt.12345678.txt"
    ours = ".workflow.lock", ".progress-fig1", ".progress-fig1.lock", "a.mupkit-12345678.b", ".x"
    for name in (*others, *ours):
        (tmp_path / name).write_text("")
    assert files.temporaries(tmp_path) == []
    assert files.temporaries(tmp_path / "nowhere") == []


@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_a_full_disk_names_folder_and_fix_and_leaves_nothing(tmp_path, monkeypatch, call) -> None:
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file.txt"
    files.write_atomically(path, b"old")
    if call == "write":
        monkeypatch.setattr("pathlib.Path.write_bytes", full)
    elif call == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)
    else:
        monkeypatch.setattr(files.os, "open", full)
    with pytest.raises(UserError, match=f"No space left on device; free space.*{tmp_path}"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_lock_that_is_no_regular_file_is_named(tmp_path, kind) -> None:
    path = tmp_path / "a.lock"
    (tmp_path / "mine").write_text("mine")
    makes = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}
    makes.get(kind, lambda: path.symlink_to(tmp_path / "mine"))()
    with pytest.raises(UserError, match=f"a {kind} where a lock file belongs; move it away"):
        files.take_lock(files.FileLock(path), "busy")
    assert files.held(path)
    assert not files.remove_unheld(path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_of_data_that_is_a_pipe_or_folder_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match=r"regular file|directory"):
            files.sha256(path)


@pytest.mark.timeout(20)
def test_what_becomes_a_link_or_a_pipe_after_the_look_is_not_followed(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(files, "irregular", lambda path: "")
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "mine").write_text("mine")
    link.symlink_to(tmp_path / "mine")
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=f"cannot read {link}"):
        files.read_regular(link)
    assert files.read_regular(pipe) == b""
    assert files.held(link) and not files.remove_unheld(link)
    assert link.exists()


def test_the_lock_file_of_a_living_process_stays(tmp_path) -> None:
    lock = files.FileLock(tmp_path / "a.lock")
    with lock:
        assert not files.remove_unheld(tmp_path / "a.lock")
    assert files.remove_unheld(tmp_path / "a.lock")
    assert files.remove_unheld(tmp_path / "a.lock")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def locks_of_nfs(monkeypatch):
    """Over NFS, Linux makes a lock of a whole file one of all its bytes."""

    def flock(handle, operation):
        kind = fcntl.F_UNLCK if operation & fcntl.LOCK_UN else fcntl.F_WRLCK
        wait = fcntl.F_OFD_SETLK if operation & fcntl.LOCK_NB else fcntl.F_OFD_SETLKW
        fcntl.fcntl(handle, wait, struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="needs Linux")
def test_locks_hold_where_they_are_those_of_bytes(tmp_path, locks_of_nfs) -> None:
    left, path = tmp_path / ".file.txt.mupkit-00000000.txt", tmp_path / "a.lock"
    left.touch()
    assert not files.held(left)
    with files.atomic_path(tmp_path / "other.txt") as temporary:
        temporary.write_bytes(b"whole")  # by a descriptor of its own, which is closed
        assert files.held(temporary)
        assert not files.remove_unheld(temporary)
    files.write_atomically(tmp_path / "file.txt", b"whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.txt", "other.txt"]
    with files.locked(path, "it runs"):
        assert files.held(path)
        assert not files.remove_unheld(path)
        assert not files.take_lock(FileLock(path), "", wait=False)
    assert files.remove_unheld(path)


def stale_at_first(monkeypatch, module, name: str, times: int) -> None:
    """Let a function fail a few times as it does over NFS when another node removed the file."""
    function, left = getattr(module, name), [None] * times

    def stale(*args, **kwargs):
        if left:
            left.pop()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, stale)


def test_a_file_that_another_node_replaces_is_opened_again(tmp_path, monkeypatch) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"whole")
    stale_at_first(monkeypatch, files, "open_regular", 3)
    assert files.read_regular(path) == b"whole"
    stale_at_first(monkeypatch, files, "open_regular", 1000)
    with pytest.raises(UserError, match=f"cannot read {path}: Stale file handle"):
        files.read_regular(path)


@pytest.mark.parametrize("wait", [True, False])
def test_a_lock_whose_file_another_node_removed_is_taken_again(tmp_path, monkeypatch, wait) -> None:
    lock = FileLock(tmp_path / "a.lock")
    stale_at_first(monkeypatch, fcntl, "flock", 3)
    assert files.take_lock(lock, "it runs", wait=wait)
    assert files.held(tmp_path / "a.lock")
    lock.release()


def test_a_lock_lets_its_folder_be_looked_at_anew(tmp_path, monkeypatch) -> None:
    """Over NFS a node would not see for a minute what another one made there."""
    seen: list = []
    monkeypatch.setattr(files, "look_anew", seen.append)
    with files.locked(tmp_path / "a.lock", "it runs"):
        assert seen == [tmp_path]


@pytest.fixture
def without_flock(monkeypatch):
    """A function that lets flock fail with an error number, as some file systems do."""

    def fail_with(number: int) -> None:
        def flock(handle, operation):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)

    return fail_with


def test_an_empty_lock_file_is_taken_over_where_there_are_no_locks(
    tmp_path, without_flock, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(files, "EMPTY_SECONDS", 0.05)
    path = tmp_path / "a.lock"
    path.touch()
    without_flock(errno.ENOSYS)
    with pytest.warns(UserWarning, match="flock not supported"), files.locked(path, "it runs"):
        said = capsys.readouterr().err
        assert str(path) in said and "taken over" in said
        assert path.stat().st_size, "a lock by its existence names its process"
        with pytest.warns(UserWarning, match="flock"):
            assert not files.take_lock(FileLock(path), "it runs", wait=False)
    assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(tmp_path, without_flock, number) -> None:
    without_flock(number)
    path = tmp_path / "a.lock"
    with pytest.raises(UserError, match="its file system has no locks") as caught:
        files.take_lock(FileLock(path), "it runs")
    assert str(path) in str(caught.value)


def test_waiting_for_a_lock_can_be_cancelled(tmp_path, capsys) -> None:
    path = tmp_path / "a.lock"
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert not files.take_lock(FileLock(path), "it runs", cancel=lambda: True)
    assert capsys.readouterr().err == "it runs; waiting for it to end\n"
