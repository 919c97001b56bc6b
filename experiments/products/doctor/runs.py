"""Stored runs that are damaged, outdated or needed by nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from experiments.declare import registry
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import temporaries
from experiments.products.doctor.finding import NOT_TOUCHED, Finding
from experiments.products.doctor.folders import files_in
from experiments.runs.store import (
    DAMAGED,
    RUN_ID,
    STALE,
    Record,
    State,
    Store,
    Stored,
)

CLOCK_SLACK = timedelta(minutes=1)
SHOWN = 3  # ids in a line that stands for many runs
OUTDATED: dict[State, str] = {  # a line for all runs of a state
    "other code": "made by other code than this checkout's",
    "other data": "made with other data than those that are there now",
}


class DataNow:
    """The fingerprint that a run's data have now, None where it cannot be had.

    The run's task knows it, which imports torch and may prepare the data. Runs of one data source
    nearly always agree, so only runs that differ from the first ask their own task.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], set[str]] = {}

    def __call__(self, record: Record) -> str | None:
        data_source = (record.family, str(record.config.get("data")))
        stored = record.provenance.data_fingerprint
        if stored in self.known.get(data_source, ()):
            return stored
        try:
            config = registry.family(record.family).config.make(**record.config)
            now: str = load(config.task, config.family)(config).fingerprint
        except UserError:
            return None
        self.known.setdefault(data_source, set()).add(now)
        return now


def look_at_all(store: Store) -> dict[str, Stored]:
    """What is stored, by id; every run is read and compared with this checkout and its data.

    Records are without losses.
    """
    from tqdm import tqdm

    names = [path.stem for path in files_in(store.folder / "runs") if path.suffix == ".parquet"]
    ids = sorted(filter(RUN_ID.fullmatch, names))
    data_now = DataNow()
    bar = tqdm(ids, unit="run", desc="reading", leave=False, disable=None, delay=1)
    return {run_id: store.look(run_id, data_now).without_losses() for run_id in bar}


def runs(store: Store, looked: dict[str, Stored], scale: Scale) -> Iterator[Finding]:
    """Findings about stored runs, and about other files among them."""
    yield from _unreadable(store, looked)
    for state, text in OUTDATED.items():
        outdated = tuple(one for one in looked.values() if one.state == state)
        if outdated:
            remedy = "removed, the next workflow trains them again"
            yield Finding(_many(outdated, text), remedy, runs=outdated, stale=True)
    readable = [one for one in looked.values() if one.record is not None]
    if future := [one for one in readable if _in_future(one.record)]:
        text = "finished later than now: the clock was set back"
        yield Finding(_many(future, text), "nothing depends on it", note=True)
    needed = _needed(scale)
    if orphans := [one for one in readable if one.id not in needed]:
        text = "needed by no figure or table: single runs, searches, older declarations"
        yield Finding(_many(orphans, text), "kept", note=True)
    if aside := files_in(store.folder / DAMAGED):
        text = f"{store.folder / DAMAGED}: {len(aside)} damaged files, set aside"
        yield Finding(text, "kept; delete them once they are of no use", note=True)
    yield from _foreign(store, looked)


def _unreadable(store: Store, looked: dict[str, Stored]) -> Iterator[Finding]:
    for one in looked.values():
        if one.state in ("newer schema", "unreadable"):
            yield Finding(one.reason, NOT_TOUCHED)
        elif one.state in ("damaged", "older schema"):
            done = f"moved to {store.folder / DAMAGED}" if one.state == "damaged" else "removed"
            remedy = f"{done}, the next workflow trains it again"
            if misnamed(one, store):
                remedy = f"renamed to {one.holds}, which is missing"
            yield Finding(one.reason, remedy, runs=(one,), stale=one.state in STALE)


def misnamed(one: Stored, store: Store) -> bool:
    """Whether the file holds another run whole, and that run has no file of its own."""
    return bool(one.holds) and not store.path(one.holds).exists()


def _many(stored: Sequence[Stored], text: str) -> str:
    ids = ", ".join(one.id for one in stored[:SHOWN]) + (", ..." if len(stored) > SHOWN else "")
    return f"{len(stored)} run{'s' * (len(stored) > 1)} {text} ({ids})"


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
        for data_source in exhibit.data_sources or ("",)
        for run in product.runs(scale, data_source)
    }


def _foreign(store: Store, looked: dict[str, Stored]) -> Iterator[Finding]:
    """Files among the runs that are no runs."""
    folder = store.folder / "runs"
    passing = {*temporaries(folder)}
    for path in files_in(folder):
        is_run = path.suffix == ".parquet" and path.stem in looked
        if not is_run and path not in passing:
            yield Finding(f"{path}: not the name of a run", "not ours, move it away")
