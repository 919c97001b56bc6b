"""Finished runs on disk: one Parquet file per run, named by the run's id, written atomically.

The file's rows are (step, loss); its metadata holds the configuration, the result and the
provenance. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock
from pydantic import ConfigDict, Field

from experiments.errors import UserError
from experiments.files import (
    LARGEST,
    DamagedFileError,
    atomic_path,
    cannot_write,
    checked,
    look_anew,
    open_regular,
    parse_json,
    read_regular,
    take_lock,
)
from experiments.messages import note
from experiments.runs.stopping import in_workflow, stopped
from experiments.runs.versions import code_version

METADATA = b"mupkit.run"
DAMAGED = "damaged"  # folder of files that stood for runs and could not be read
MAGIC = b"PAR1"  # first and last bytes of every Parquet file
SCHEMAS = (1, 2)  # of the metadata that are read; a file without a number has 1
# The schema that a key of the provenance needs, unless it is at its default and left out. A file
# without such keys can be read by older checkouts.
LATER = {"stacked": 2, "computed": 2}
RUN_ID = re.compile(r"[0-9a-f]{16}")


class DamagedRunError(DamagedFileError):
    """A stored run that cannot be read; the message names the file and what is wrong with it.

    Attributes:
        holds: id of the other run that the file holds whole, or "".
    """

    def __init__(self, message: str, holds: str = ""):
        super().__init__(message)
        self.holds = holds


class OtherSchemaError(UserError):
    """A stored run whose metadata another version of this project wrote; it is not touched.

    The number alone says so: whatever else such a file holds is for that version to judge.

    Attributes:
        older: whether that version is older than this one.
    """

    def __init__(self, message: str, older: bool = False):
        super().__init__(message)
        self.older = older


@dataclass(frozen=True)
class Provenance:
    """Where a run's numbers come from; not part of its result.

    Attributes:
        seconds, flops: spent on it: none on a run that is the beginning of a longer one.
        derived_from: id of that longer one, or "".
        stacked: how many runs were trained as one batch with this one among them; 0 if it was
            trained alone.
        computed: JSON of how its steps were computed (`declare.way.Stretch`), or "" if one process
            computed each batch at once.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    code_version: str
    git_commit: str
    git_dirty: bool
    data_fingerprint: str
    torch_version: str
    device: str
    threads: int
    matmul: str
    seconds: float
    flops: float
    finished_at: str
    derived_from: str = ""
    stacked: Annotated[int, Field(ge=0)] = 0
    computed: str = ""


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        id, family, config: which run.
        final_loss: nats, NaN if it diverged.
        diverged, diverged_step: whether and when it did.
        losses: nats, one per step.
        metrics: what was measured at its end, by name.
        valid_losses: nats on held-out data, by the step after which each was measured.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: Annotated[str, Field(pattern=RUN_ID)]
    family: Annotated[str, Field(pattern=r"^\w+$")]
    config: dict[str, Any]
    final_loss: float
    diverged: bool
    diverged_step: int | None
    losses: tuple[float, ...]
    provenance: Provenance
    metrics: dict[str, float | str] = field(default_factory=dict)
    valid_losses: dict[int, float] = field(default_factory=dict)


# The states of a run in the store. One that is "unreadable", as without the rights to, may well be
# whole. One of "other code" or "other data" can be read, but was not
# made by this checkout's code or with the data that are there now.
State = Literal[
    "missing",
    "done",
    "damaged",
    "unreadable",
    "newer schema",
    "older schema",
    "other code",
    "other data",
]
STALE: tuple[State, ...] = ("older schema", "other code", "other data")  # what --stale drops


@dataclass(frozen=True)
class Stored:
    """What is in the store under an id.

    Attributes:
        id: of the run.
        state: what can be said of it.
        record: the run, if it can be read.
        reason: for readers, why it cannot be read.
        holds: id of the other run that its file holds whole, or "".
    """

    id: str
    state: State
    record: Record | None = None
    reason: str = ""
    holds: str = ""

    def without_losses(self) -> Stored:
        """The same without the losses of each step, so that many of them fit into memory."""
        if self.record is None:
            return self
        return replace(self, record=replace(self.record, losses=(), valid_losses={}))


class Store:
    """The runs of one results folder.

    Args:
        folder: such as results/small; it is made when a run is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, run_id: str) -> Path:
        """Where the run of this id is or will be; it cannot be outside the folder.

        Raises:
            UserError: if it is no id.
        """
        return self.folder / "runs" / f"{_checked(run_id)}.parquet"

    def lock(self, run_id: str) -> FileLock:
        """The lock of a run that is being trained."""
        return FileLock(self.folder / "locks" / f"{_checked(run_id)}.lock")

    def looks_finished(self, run_id: str) -> bool:
        """Whether a whole file is there, by its first and last bytes; costs microseconds."""
        return _has_magic(self.path(run_id))

    def read(self, run_id: str) -> Record:
        """The run of this id, every page checked against its checksum.

        Raises:
            FileNotFoundError: if it is not there.
            DamagedRunError: if the file is truncated, altered or of another run.
            OtherSchemaError: if another version of this project wrote it.
            UserError: if it cannot be read, as without the rights to.
        """
        path = self.path(run_id)
        record = read_file(path)
        if record.id != run_id:
            raise DamagedRunError(f"{path}: holds run {record.id}", record.id)
        return record

    def look(self, run_id: str, data_now: Callable[[Record], str | None] | None = None) -> Stored:
        """What is stored under an id, whatever is wrong with it: only here runs are classified.

        Args:
            run_id: of the run.
            data_now: the fingerprint that the data of a run have now, or None if it cannot be
                known; without it data are not compared.

        Raises:
            UserError: if it is no id.
        """
        _checked(run_id)
        try:
            record = self.read(run_id)
        except FileNotFoundError:
            return Stored(run_id, "missing")
        except DamagedRunError as error:
            return Stored(run_id, "damaged", reason=str(error), holds=error.holds)
        except OtherSchemaError as error:
            age: State = "older schema" if error.older else "newer schema"
            return Stored(run_id, age, reason=str(error))
        except UserError as error:
            return Stored(run_id, "unreadable", reason=str(error))
        state: State = "done"
        if record.provenance.code_version != _code_version_or_none(record.family):
            state = "other code"
        elif data_now is not None:
            now = data_now(record)
            if now is not None and now != record.provenance.data_fingerprint:
                state = "other data"
        return Stored(run_id, state, record)

    def write(self, record: Record) -> None:
        """Store a finished run."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        meta = asdict(record)
        losses, valid_losses = meta.pop("losses"), meta.pop("valid_losses")
        provenance = meta["provenance"]
        later = {key: schema for key, schema in LATER.items() if provenance[key]}
        meta["provenance"] = {k: v for k, v in provenance.items() if k in later or k not in LATER}
        meta["digest"] = _digest(meta, losses, valid_losses)
        meta["schema"] = max(later.values(), default=1)
        # By their bytes: `pa.array` of numbers loads pandas.
        columns = {
            name: pa.Array.from_buffers(kind, len(losses), [None, pa.py_buffer(values)])
            for name, kind, values in (
                ("step", pa.int32(), array("i", range(len(losses)))),
                ("loss", pa.float64(), array("d", losses)),
            )
        }
        if valid_losses:
            measured = [valid_losses.get(step) for step in range(len(losses))]
            columns["valid_loss"] = pa.array(measured, pa.float64())
        table = pa.table(columns, metadata={METADATA: json.dumps(meta).encode()})
        with atomic_path(self.path(record.id)) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def checkpoint(self, run_id: str) -> Path:
        """Where the run of this id keeps its state while it is trained."""
        return self.folder / "checkpoints" / f"{_checked(run_id)}.safetensors"

    def remove(self, run_id: str) -> None:
        """Forget a run, if it is there, and its checkpoint; a folder in its place is set aside."""
        path = self.path(run_id)
        if path.is_dir() and not path.is_symlink():
            note(f"{path}: a folder, kept as {self.set_aside(run_id)}")
        path.unlink(missing_ok=True)
        self.checkpoint(run_id).unlink(missing_ok=True)

    def set_aside(self, run_id: str) -> Path:
        """Move a file that cannot be read to the folder `damaged`, where it overwrites nothing.

        The run must be claimed: another process may have replaced the file otherwise.

        Returns:
            Where it is now.

        Raises:
            UserError: if the folder cannot be written.
        """
        path, folder = self.path(run_id), self.folder / DAMAGED
        names = (folder / f"{run_id}-{number}.parquet" for number in itertools.count(1))
        try:
            folder.mkdir(exist_ok=True)
            return path.rename(next(name for name in names if not os.path.lexists(name)))
        except OSError as error:
            raise cannot_write(folder, error) from error

    @contextmanager
    def claim(self, run_id: str, wait: bool = True) -> Iterator[bool]:
        """Hold a run while it is trained, so that two processes never train the same one.

        The lock dies with its process. Its empty file is removed while the lock is held; a process
        that waits for it sees that the file no longer has a name, and makes a new one.

        Yields:
            Whether it is held. It is not if another process holds it, without `wait` or if the
            workflow of this process was told to stop meanwhile.
        """
        lock = self.lock(run_id)
        # Within a workflow it is usually another of its jobs.
        reason = "" if in_workflow() else f"run {run_id} is being trained by another process"
        if not take_lock(lock, reason, wait, cancel=stopped):
            yield False
            return
        # What another process did before, maybe on another node: the run, or its checkpoint.
        for path in (self.folder, self.path(run_id).parent, self.checkpoint(run_id).parent):
            look_anew(path)
        try:
            yield True
        finally:
            with suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()


def _checked(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise UserError(f"{run_id!r} is no id of a run (16 hexadecimal digits)")
    return run_id


def _has_magic(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            if file.read(4) != MAGIC:
                return False
            file.seek(-4, 2)
            return file.read(4) == MAGIC
    except (OSError, DamagedFileError):
        return False


def read_file(path: Path) -> Record:
    """The run in a file, whatever the file's name; `Store.read` compares the two.

    Raises:
        FileNotFoundError, DamagedRunError, OtherSchemaError, UserError: as `Store.read`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = read_regular(path, LARGEST["parquet"])
    except DamagedFileError as error:
        raise DamagedRunError(str(error)) from error
    try:
        whole = pa.BufferReader(content)
        with pq.ParquetFile(whole, page_checksum_verification=True) as file:
            # The metadata of the table would come from a second copy in the file.
            meta = parse_json(file.metadata.metadata[METADATA], dict[str, Any], "its metadata")
            schema = meta.pop("schema", 1)
            if isinstance(schema, int) and schema not in SCHEMAS:
                raise _other_schema(path, schema)
            table = file.read(use_threads=False)  # of two short columns
        if content[:4] != MAGIC:
            raise ValueError("its header is altered")
        losses = checked(tuple(table["loss"].to_pylist()), tuple[float, ...], "its losses")
        measured = table["valid_loss"].to_pylist() if "valid_loss" in table.column_names else []
        valid_losses = {step: loss for step, loss in enumerate(measured) if loss is not None}
        # A digest of what is stored, so that a new field with a default keeps old files.
        if meta.pop("digest") != _digest(meta, losses, valid_losses):
            raise ValueError("its content does not match its checksum")
        record = parse_json(json.dumps({**meta, "losses": []}), Record, "its metadata")
        return replace(record, losses=losses, valid_losses=valid_losses)
    except OtherSchemaError:
        raise
    except Exception as error:  # whatever a damaged file makes the readers raise
        name = "" if isinstance(error, DamagedFileError) else f"{type(error).__name__}: "
        raise DamagedRunError(f"{path}: {name}{error}".split("\n")[0]) from error


def _other_schema(path: Path, schema: int) -> OtherSchemaError:
    text = f"{path}: written with schema {schema}, this checkout reads {max(SCHEMAS)}"
    older = schema < min(SCHEMAS)
    fix = "`forget` drops it" if older else "use a newer checkout, or move the file away"
    return OtherSchemaError(f"{text}; {fix}", older)


def _digest(
    meta: dict[str, Any], losses: Iterable[float], valid_losses: Mapping[int, float]
) -> str:
    content = {**meta, "losses": [float(x).hex() for x in losses]}
    if valid_losses:
        content["valid_losses"] = {step: loss.hex() for step, loss in valid_losses.items()}
    content["final_loss"] = float(meta["final_loss"]).hex()
    if not meta.get("metrics"):  # older files have neither this key nor the next
        content.pop("metrics", None)
    later = {"derived_from", *LATER}  # older files have none of them
    provenance = meta["provenance"].items()
    content["provenance"] = {k: v for k, v in provenance if v or k not in later}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _code_version_or_none(family: str) -> str | None:
    try:
        return code_version(family)
    except UserError:  # a family that this checkout does not have
        return None
