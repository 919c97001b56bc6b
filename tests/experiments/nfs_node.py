"""What one node does in a folder that it shares over NFS; arguments: function, folder, ..."""

import dataclasses
import os
import sys
import time
from pathlib import Path

from filelock import FileLock

from experiments import files
from experiments.runs import training
from experiments.runs.store import Store
from tests.tiny_runs import tiny_run

LENGTH = 20_000  # numbers in a file that is replaced


def count(folder: Path, times: str) -> None:
    """Add to a number that others add to."""
    path = folder / "count"
    for _ in range(int(times)):
        with files.locked(folder / "count.lock", ""):
            before = int(files.read_regular(path)) if path.exists() else 0
            files.write_atomically(path, str(before + 1).encode())


def hold(folder: Path) -> None:
    """Hold a lock until this process is killed."""
    with files.locked(folder / "a.lock", ""):
        files.write_atomically(folder / "pid", str(os.getpid()).encode())
        time.sleep(600)


def find_held(folder: Path) -> None:
    """Another node holds the lock."""
    path = folder / "a.lock"
    assert files.held(path)
    assert not files.remove_unheld(path)
    assert not files.take_lock(FileLock(path), "", wait=False)


def find_free(folder: Path) -> None:
    """The process that held the lock was killed."""
    path = folder / "a.lock"
    assert not files.held(path)
    assert files.take_lock(FileLock(path), "", wait=False)
    assert files.remove_unheld(folder / "nothing")


def replace(folder: Path, times: str) -> None:
    """Replace a file again and again."""
    for number in range(int(times)):
        files.write_atomically(folder / "file", b"%06d" % number * LENGTH)


def read(folder: Path) -> None:
    """Read a file that another node replaces: each time a whole one, and not the same for ever."""
    seen = set()
    files.write_atomically(folder / "reading", b"")
    while not (folder / "end").exists():
        content = files.read_regular(folder / "file")
        assert content == content[:6] * LENGTH
        seen.add(content[:6])
    assert len(seen) > 1


def write(folder: Path, times: str) -> None:
    """Write a file that others write without a lock."""
    for _ in range(int(times)):
        files.write_atomically(folder / "same", b"whole")


def train(folder: Path, count: str, name: str) -> None:
    """Train runs that others train, too, each for milliseconds, and list those."""
    from tests.experiments.runs.test_store import record  # which imports pandas

    trained = []

    def quickly(run, store, *others):
        trained.append(run.id)
        time.sleep(0.02)
        one = dataclasses.replace(record(), id=run.id, config=run.model_dump())
        store.write(one)
        return one

    training._train = quickly
    runs = [tiny_run(seed=seed) for seed in range(int(count))]
    assert len(training.train_runs(runs, Store(folder / "results"))) == len(runs)
    files.write_atomically(folder / f"{name}.trained", "\n".join(trained).encode())


def look(folder: Path) -> None:
    """Look for a file again and again, which another node makes within seconds, and then anew."""
    path = folder / "late"
    assert not path.exists()
    files.write_atomically(folder / "looked", b"")
    for _ in range(120):
        path.exists()
        time.sleep(0.05)
    files.look_anew(folder)
    assert path.exists()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
