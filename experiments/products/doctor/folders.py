"""Disk space, rights, and files that killed processes left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.data.places import cache_dir
from experiments.files import held, temporaries
from experiments.products.doctor.finding import Finding, misplaced
from experiments.runs.store import RUN_ID, Store

REMOVED = ".nfs"  # begins the name that a file over NFS has from its removal until it is closed
MIN_FREE = 200e6  # bytes; a figure's runs, tables and pictures take a tenth of it


def files_in(folder: Path) -> list[Path]:
    """Files and folders in a folder, none if it is missing; without those of NFS itself."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(REMOVED))


def room(*folders: Path) -> Iterator[Finding]:
    """A disk that is nearly full, and folders that cannot be written.

    Args:
        folders: these, their subfolders, and the disk of the first.
    """
    there = next(p for p in (folders[0], *folders[0].parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < MIN_FREE:
        yield Finding(f"{there}: {free / 1e6:.0f} MB left on the disk", "free space")
    for folder in folders:
        for part in (folder, *_subfolders(folder)):
            if part.exists() and not os.access(part, os.W_OK | os.X_OK):
                yield Finding(f"{part}: read-only", "fix its rights or mount it writable")


def _subfolders(folder: Path) -> list[Path]:
    return [path for path in files_in(folder) if path.is_dir()]


def left_behind(store: Store, pictures: Path) -> Iterator[Finding]:
    """Temporary and lock files that no process holds any more, and checkpoints of finished runs.

    Args:
        store: of a scale.
        pictures: folder of the scale's pictures.
    """
    tops = (store.folder, pictures)
    folders = [*tops, cache_dir(), *(sub for top in tops for sub in _subfolders(top))]
    for path in (p for folder in folders for p in temporaries(folder)):
        if not held(path):
            yield Finding(f"{path}: temporary file of a killed process", "removed", (path,))
    for path in files_in(store.folder / "locks"):
        if path.suffix != ".lock" or not RUN_ID.fullmatch(path.stem):
            yield Finding(f"{path}: not the name of a lock", "not ours, move it away")
        elif there := [*misplaced(path)]:
            yield from there
        elif not held(path):
            yield Finding(f"{path}: lock file that no process holds", "removed", (path,))
    yield from _checkpoints(store)
    for pattern in (".progress-*", ".workflow*", "groups/*.done"):
        yield from misplaced(*sorted(store.folder.glob(pattern)))


def _checkpoints(store: Store) -> Iterator[Finding]:
    folder = store.folder / "checkpoints"
    passing = {*temporaries(folder)}
    for path in files_in(folder):
        if path in passing:
            continue
        if path.suffix != ".safetensors" or not RUN_ID.fullmatch(path.stem):
            yield Finding(f"{path}: not the name of a checkpoint", "not ours, move it away")
        elif there := [*misplaced(path)]:
            yield from there
        elif store.looks_finished(path.stem):
            yield Finding(f"{path}: checkpoint of a finished run", "removed", (path,))
        else:
            from experiments.train.checkpoint import damage  # imports torch

            if fault := damage(path):
                yield Finding(f"{path}: {fault}", "removed, its run starts anew", (path,))
