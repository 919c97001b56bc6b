"""What is wrong in a results folder, and what can be removed without losing anything.

Whatever `mend` removes is made again by the next workflow, or nobody needs it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.data.places import cache_dir
from experiments.declare import registry
from experiments.declare.product import Product
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import cannot_write, held, remove_unheld, temporaries
from experiments.products import computing
from experiments.runs.places import figures_dir, results_dir
from experiments.runs.store import (
    RUN_ID,
    STALE,
    DamagedRunError,
    OtherSchemaError,
    Record,
    Store,
    Stored,
    read_file,
)

MIN_FREE = 200e6  # bytes; a figure's runs, tables and pictures take a tenth of it
CLOCK_SLACK = timedelta(minutes=1)
SHOWN = 3  # ids in a line that stands for many runs
NAMED = ("damaged", "newer schema", "older schema")  # states that get a line each


@dataclass(frozen=True, eq=False)
class Finding:
    """One line of the report.

    Attributes:
        text: what was found.
        remedy: what `mend` does about it, or the user should.
        files: what `mend` removes.
        runs: those whose files are among them, looked at again before they go.
        stale: whether `mend` needs `stale` too.
        note: nothing is wrong.
    """

    text: str
    remedy: str
    files: tuple[Path, ...] = ()
    runs: tuple[Stored, ...] = ()
    stale: bool = False
    note: bool = False

    @property
    def mendable(self) -> bool:
        """Whether `mend` can do something about it."""
        return bool(self.files or self.runs)

    def line(self, done: bool | None, mending: bool) -> str:
        """The line of the report, before or after `mend`."""
        kind = "note: " if self.note else ""
        if not self.mendable or (self.note and not done):
            return f"{kind}{self.text}; {self.remedy}"
        if done:
            return f"{kind}{self.text}; mended: {self.remedy}"
        how = "--mend --stale" if self.stale else "--mend"
        busy = "in use, not mended: " if mending and done is False else ""
        return f"{kind}{self.text}; {busy}{how}: {self.remedy}"


class DataNow:
    """The fingerprint that a run's data have now, None where it cannot be had.

    It is asked of the run's own task, which brings torch and may prepare the data. Runs of one
    source nearly always agree, so that only those that differ from the first ask their own task.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], set[str]] = {}

    def __call__(self, record: Record) -> str | None:
        source = (record.family, str(record.config.get("data")))
        stored = record.provenance.data_fingerprint
        if stored in self.known.get(source, ()):
            return stored
        try:
            config = registry.family(record.family).config.make(**record.config)
            now: str = load(config.task)(config).fingerprint
        except UserError:
            return None
        self.known.setdefault(source, set()).add(now)
        return now


def examine(scale: Scale, sources: dict[str, str]) -> list[Finding]:
    """Everything that is to be said of a scale's results; reads only."""
    store = Store(results_dir(scale))
    if not store.folder.exists():
        return list(_room(store.folder))
    looked = _look_at_all(store)
    return [
        *_room(store.folder, figures_dir(scale)),
        *_runs(store, looked, scale),
        *_names(store, looked),
        *_left_behind(store, scale),
        *_checkpoints(store),
        *_tables(store, looked, scale),
    ]


def _look_at_all(store: Store) -> dict[str, Stored]:
    from tqdm import tqdm

    ids = sorted(p.stem for p in _in(store.folder / "runs") if _is_run(p))
    data_now = DataNow()
    bar = tqdm(ids, unit="run", desc="reading", leave=False, disable=None, delay=1)
    return {run_id: store.look(run_id, data_now) for run_id in bar}


def _in(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_run(path: Path) -> bool:
    return path.suffix == ".parquet" and RUN_ID.fullmatch(path.stem) is not None


def _room(*folders: Path) -> Iterator[Finding]:
    there = next(p for p in (folders[0], *folders[0].parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < MIN_FREE:
        yield Finding(f"{there}: {free / 1e6:.0f} MB left on the disk", "free space")
    for folder in folders:
        for part in (folder, *(p for p in _in(folder) if p.is_dir())):
            if part.exists() and not os.access(part, os.W_OK | os.X_OK):
                yield Finding(f"{part}: read-only", "mend its rights or mount it writable")


def _runs(store: Store, looked: dict[str, Stored], scale: Scale) -> Iterator[Finding]:
    """Stored runs by state; damaged ones and those that cannot be read get a line each."""
    texts = {
        "damaged": "removed, the next workflow trains it again",
        "older schema": "removed, the next workflow trains it again",
        "newer schema": "not touched",
    }
    for one in looked.values():
        if one.state not in NAMED:
            continue
        runs = () if one.state == "newer schema" else (one,)
        remedy = texts[one.state]
        if one.holds and not store.path(one.holds).exists():
            remedy = f"renamed to {one.holds}, which is missing"
        yield Finding(one.reason, remedy, runs=runs, stale=one.state in STALE)
    for state, text in (
        ("other code", "made by other code than this checkout's"),
        ("other data", "made with other data than those that are there now"),
    ):
        runs = tuple(one for one in looked.values() if one.state == state)
        if runs:
            remedy = "removed, the next workflow trains them again"
            yield Finding(_many(runs, text), remedy, runs=runs, stale=True)
    readable = [one for one in looked.values() if one.record is not None]
    future = [one for one in readable if _in_future(one.record)]
    if future:
        text = "finished later than now: the clock was set back"
        yield Finding(_many(future, text), "nothing depends on it", note=True)
    orphans = [one for one in readable if one.id not in _needed(scale)]
    if orphans:
        text = "needed by no figure or table: single runs, searches, older declarations"
        yield Finding(_many(orphans, text), "kept", note=True)


def _many(runs: Sequence[Stored], text: str) -> str:
    ids = ", ".join(one.id for one in runs[:SHOWN]) + (", ..." if len(runs) > SHOWN else "")
    return f"{len(runs)} run{'s' * (len(runs) > 1)} {text} ({ids})"


def _in_future(record: Record | None) -> bool:
    with suppress(ValueError, TypeError):
        if record is not None:
            finished = datetime.fromisoformat(record.provenance.finished_at)
            return finished > datetime.now(UTC) + CLOCK_SLACK
    return False


def _needed(scale: Scale) -> set[str]:
    """Ids of all declared runs, on every data source."""
    return {
        run.id
        for exhibit in registry.exhibits().values()
        for product in exhibit.products
        for source in exhibit.data_sources or ("",)
        for run in product.runs(scale, source)
    }


def _names(store: Store, looked: dict[str, Stored]) -> Iterator[Finding]:
    """Files among the runs that are none."""
    folder = store.folder / "runs"
    passing = temporaries(folder)
    for path in _in(folder):
        if not (_is_run(path) and path.stem in looked) and path not in passing:
            yield Finding(f"{path}: not the name of a run", "not ours, move it away")


def _left_behind(store: Store, scale: Scale) -> Iterator[Finding]:
    """Temporary and lock files that no process holds any more."""
    top = (store.folder, figures_dir(scale), cache_dir())
    folders = [*top, *(p for folder in top[:2] for p in _in(folder) if p.is_dir())]
    for path in (p for folder in folders for p in temporaries(folder)):
        if not held(path):
            yield Finding(f"{path}: temporary file of a killed process", "removed", (path,))
    locks = _in(store.folder / "locks")
    for path in locks:
        if path.suffix == ".lock" and not held(path):
            yield Finding(f"{path}: lock file that no process holds", "removed", (path,))


def _checkpoints(store: Store) -> Iterator[Finding]:
    folder = store.folder / "checkpoints"
    passing = temporaries(folder)
    for path in _in(folder):
        if path in passing:
            continue
        if path.suffix != ".safetensors" or not RUN_ID.fullmatch(path.stem):
            yield Finding(f"{path}: not the name of a checkpoint", "not ours, move it away")
        elif store.looks_finished(path.stem):
            yield Finding(f"{path}: checkpoint of a finished run", "removed", (path,))


# Tables


def _tables(store: Store, looked: dict[str, Stored], scale: Scale) -> Iterator[Finding]:
    for name, product in registry.products().items():
        folder = store.folder / name
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        made = tuple(folder / f for f in ("scale.json", "claims.json") if (folder / f).exists())
        wrong = _trained(product, folder, looked) if product.sweeps else _state(product, folder)
        if wrong:
            broken = tuple(sorted(folder.glob("*.parquet"))) if wrong.unusable else ()
            again = "gathers" if product.sweeps else "measures"
            yield Finding(
                f"{folder}: {wrong.text}",
                f"removed, the next workflow {again} them again",
                (*made, *broken),
                stale=wrong.stale,
            )
        elif _older(folder / "claims.json", folder / "runs.parquet"):
            yield Finding(
                f"{folder / 'claims.json'}: older than its table",
                "removed, the next workflow judges them again",
                (folder / "claims.json",),
            )


@dataclass(frozen=True)
class _Wrong:
    """What is wrong with a product's tables; whether `mend` removes them, too, and with `stale`."""

    text: str
    unusable: bool = True
    stale: bool = False


def _state(product: Product, folder: Path) -> _Wrong | None:
    texts = {
        "damaged": _Wrong("damaged tables"),
        "other code": _Wrong("tables measured by other code", stale=True),
    }
    return texts.get(computing.state(product, folder))


def _trained(product: Product, folder: Path, looked: dict[str, Stored]) -> _Wrong | None:
    """What is wrong with tables of runs; what they say of each run is held against the store."""
    import pyarrow.parquet as pq

    paths = [folder / f"{table}.parquet" for table in product.tidy_tables]
    if not all(path.exists() for path in paths):
        return _Wrong("incomplete tables") if any(path.exists() for path in paths) else None
    try:
        rows: list[dict[str, Any]] = [pq.read_table(path) for path in paths][-1].to_pylist()
        json.loads((folder / "scale.json").read_text(encoding="utf-8"))
        stored = {row["id"]: (row["finished_at"], row["seconds"]) for row in rows}
    except FileNotFoundError:  # the workflow makes them again
        return None
    except (OSError, ValueError, KeyError):
        return _Wrong("damaged tables")
    for run_id, said in stored.items():
        record = looked[run_id].record if run_id in looked else None
        if record is not None:
            provenance = record.provenance
            if said != (provenance.finished_at, provenance.seconds):
                text = f"tables are older than their runs ({run_id} was trained since)"
                return _Wrong(text, unusable=False)
    return None


def _older(path: Path, than: Path) -> bool:
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns < than.stat().st_mtime_ns
    return False


# Mending


def mend(found: Iterable[Finding], scale: Scale, stale: bool) -> dict[Finding, bool]:
    """Remove what can be removed; for each finding that was meant, whether it is mended.

    Raises:
        UserError: if a workflow is running, or the folder cannot be written.
    """
    store = Store(results_dir(scale))
    chosen = [f for f in found if f.mendable and not f.note and (stale or not f.stale)]
    if not chosen:
        return {}
    workflow = FileLock(store.folder / ".workflow.lock")
    try:
        workflow.acquire(timeout=0)
    except Timeout:
        raise UserError(f"a workflow runs in {store.folder}; mend when it has ended") from None
    except OSError as error:
        raise cannot_write(store.folder, error) from error
    try:
        return {finding: _mend(finding, store) for finding in chosen}
    except OSError as error:
        raise cannot_write(store.folder, error) from error
    finally:
        workflow.release()


def _mend(finding: Finding, store: Store) -> bool:
    return all([_remove(p) for p in finding.files] + [_drop(one, store) for one in finding.runs])


def _remove(path: Path) -> bool:
    if path.suffix == ".lock" or path in temporaries(path.parent):
        return remove_unheld(path)
    path.unlink(missing_ok=True)
    return True


def _drop(one: Stored, store: Store) -> bool:
    """Drop a run unless a process trains it or its file has changed since it was looked at."""
    lock = store.lock(one.id)
    Path(lock.lock_file).parent.mkdir(exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if one.state in NAMED:
            now = store.look(one.id).state == one.state
        else:
            now = _provenance(store.look(one.id)) == _provenance(one)
        if now and not _renamed(store, one.id):
            store.remove(one.id)
        return now
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()


def _provenance(one: Stored) -> Any:
    return one.record and one.record.provenance


def _renamed(store: Store, run_id: str) -> bool:
    """Give a whole run under another's name its own, if that is free; whether it was so."""
    try:
        record = read_file(store.path(run_id))
    except (DamagedRunError, OtherSchemaError):
        return False
    if record.id == run_id or store.path(record.id).exists():
        return False
    store.path(run_id).rename(store.path(record.id))
    return True
