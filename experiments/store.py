"""Finished runs on disk: one Parquet file a run, named by the run's id, written atomically.

The file's rows are (step, loss); its metadata holds the configuration, the result and the
provenance. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from experiments.files import atomic_path, wait_for_lock
from experiments.spec import Measurement

ROOT = Path(__file__).parents[1]
METADATA = b"mupkit.run"
MAGIC = b"PAR1"  # first and last bytes of every Parquet file
# Code that can change a run's numbers; figures, claims and the command line cannot. Nor can the
# core's subpackages, which look at models and do not train them.
NUMERIC_CODE = ("mupkit/*.py", "experiments/models/*.py", "experiments/data/*.py")
NUMERIC_FILES = ("engine.py", "process.py", "schedules.py")


class DamagedRunError(Exception):
    """A stored run that cannot be read; names the file and what is wrong with it."""


@dataclass(frozen=True)
class Provenance:
    """Where a run's numbers come from; not part of its result."""

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


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        id, family, config: which run.
        final_loss: nats, NaN if it diverged.
        diverged, diverged_step: whether and when it did.
        losses: nats, one a step.
    """

    id: str
    family: str
    config: dict[str, Any]
    final_loss: float
    diverged: bool
    diverged_step: int | None
    losses: tuple[float, ...]
    provenance: Provenance


class Store:
    """The runs of one results folder.

    Args:
        folder: such as results/small; it is made when a run is written.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, run_id: str) -> Path:
        """Where the run of this id is or will be."""
        return self.folder / "runs" / f"{run_id}.parquet"

    def looks_finished(self, run_id: str) -> bool:
        """Whether a whole file is there, by its first and last bytes; costs microseconds."""
        path = self.path(run_id)
        try:
            with path.open("rb") as file:
                if file.read(4) != MAGIC:
                    return False
                file.seek(-4, 2)
                return file.read(4) == MAGIC
        except OSError:
            return False

    def read(self, run_id: str) -> Record:
        """The run of this id, every page checked against its checksum.

        Raises:
            FileNotFoundError: if it is not there.
            DamagedRunError: if the file is truncated, altered or of another run.
        """
        import pyarrow.parquet as pq

        path = self.path(run_id)
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            table = pq.read_table(path, page_checksum_verification=True)
            meta = json.loads(table.schema.metadata[METADATA])
            losses = tuple(table["loss"].to_pylist())
            provenance = Provenance(**meta.pop("provenance"))
            digest = meta.pop("digest")
            record = Record(**meta, losses=losses, provenance=provenance)
        except Exception as error:
            raise DamagedRunError(
                f"{path}: {type(error).__name__}: {error}".split("\n")[0]
            ) from error
        if record.id != run_id:
            raise DamagedRunError(f"{path}: holds run {record.id}")
        if digest != _digest(record):
            raise DamagedRunError(f"{path}: its content does not match its checksum")
        return record

    def write(self, record: Record) -> None:
        """Store a finished run."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        meta = asdict(record)
        losses = meta.pop("losses")
        meta["digest"] = _digest(record)
        table = pa.table(
            {
                "step": pa.array(range(len(losses)), pa.int32()),
                "loss": pa.array(losses, pa.float64()),
            },
            metadata={METADATA: json.dumps(meta).encode()},
        )
        with atomic_path(self.path(record.id)) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)

    def remove(self, run_id: str) -> None:
        """Forget a run, if it is there."""
        self.path(run_id).unlink(missing_ok=True)

    @contextmanager
    def claim(self, run_id: str) -> Iterator[None]:
        """Hold a run while it is trained, so that two processes never train the same one.

        The lock dies with its process. Its file is empty and stays.
        """
        lock = FileLock(self.folder / "locks" / f"{run_id}.lock")
        wait_for_lock(lock, f"run {run_id} is being trained by another process")
        try:
            yield
        finally:
            lock.release()


def _digest(record: Record) -> str:
    content = {**asdict(record), "losses": [float(x).hex() for x in record.losses]}
    content["final_loss"] = float(record.final_loss).hex()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@cache
def code_version(family: str) -> str:
    """12 digits that change when code changes that can change this family's numbers."""
    files: list[Path] = []
    for pattern in NUMERIC_CODE:
        files += ROOT.glob(pattern)
    files += [ROOT / "experiments" / name for name in NUMERIC_FILES]
    files.append(ROOT / "experiments" / family / "task.py")
    return _digest_of_files(files)


def measuring_code(measurement: Measurement) -> list[Path]:
    """Files whose change can change a measurement's table, in a fixed order."""
    files = {ROOT / "experiments" / name for name in NUMERIC_FILES}
    for pattern in (*NUMERIC_CODE, "mupkit/**/*.py", *measurement.reads):
        files.update(ROOT.glob(pattern))
    files.add(module_file(measurement.function))
    return sorted(files)


def measuring_version(measurement: Measurement) -> str:
    """12 digits that change when code changes that can change a measurement's table."""
    return _digest_of_files(measuring_code(measurement))


def module_file(reference: str) -> Path:
    """The file of the module that "module:function" names."""
    return ROOT / f"{reference.partition(':')[0].replace('.', '/')}.py"


def _digest_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


@cache
def git_state() -> tuple[str, bool]:
    """The commit of the checkout and whether tracked files differ from it; ("", False) outside."""

    def git(*args: str) -> str:
        done = subprocess.run(("git", "-C", str(ROOT), *args), capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except FileNotFoundError:
        return "", False


def tidy_runs(records: Iterable[Record]) -> Any:
    """One row a run: id, family, the configuration's columns, the result. A pandas DataFrame."""
    return _frame(
        {
            "id": r.id,
            "family": r.family,
            **r.config,
            "final_loss": r.final_loss,
            "diverged": r.diverged,
            "diverged_step": r.diverged_step,
        }
        for r in records
    )


def tidy_curves(records: Iterable[Record]) -> Any:
    """One row a (run, step): id, step, loss. A pandas DataFrame."""
    return _frame(
        {"id": r.id, "step": step, "loss": loss}
        for r in records
        for step, loss in enumerate(r.losses)
    )


def tidy_provenance(records: Iterable[Record]) -> Any:
    """One row a run: id and provenance. A pandas DataFrame."""
    return _frame({"id": r.id, **asdict(r.provenance)} for r in records)


def _frame(rows: Iterable[dict[str, Any]]) -> Any:
    import pandas as pd

    return pd.DataFrame(list(rows))


def write_tables(folder: Path, records: Sequence[Record]) -> None:
    """runs.parquet, curves.parquet and provenance.parquet of trainings."""
    tables: dict[str, Callable[[Iterable[Record]], Any]] = {
        "runs": tidy_runs,
        "curves": tidy_curves,
        "provenance": tidy_provenance,
    }
    for name, make in tables.items():
        write_frame(folder / f"{name}.parquet", make(records))


def write_frame(path: Path, frame: Any) -> None:
    """A pandas DataFrame as Parquet; the same frame gives the same bytes."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, compression="zstd", index=False)
