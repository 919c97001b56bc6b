"""From stored runs to tidy tables: one row per run, per (run, step), and per run its provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.files import atomic_path
from experiments.runs.store import Record

if TYPE_CHECKING:
    import pandas as pd


def tidy_runs(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run: id, family, the configuration's columns, the result, its metrics."""
    return _frame(
        {
            "id": r.id,
            "family": r.family,
            **r.config,
            "final_loss": r.final_loss,
            "diverged": r.diverged,
            "diverged_step": r.diverged_step,
            **r.metrics,
        }
        for r in records
    )


def tidy_curves(records: Iterable[Record]) -> pd.DataFrame:
    """One row per (run, step): id, step, loss. A pandas DataFrame."""
    return _frame(
        {"id": r.id, "step": step, "loss": loss}
        for r in records
        for step, loss in enumerate(r.losses)
    )


def tidy_provenance(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run: id and provenance. A pandas DataFrame."""
    return _frame({"id": r.id, **asdict(r.provenance)} for r in records)


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(list(rows))


def write_tables(folder: Path, records: Sequence[Record]) -> None:
    """runs.parquet, curves.parquet and provenance.parquet of trainings."""
    tables: dict[str, Callable[[Iterable[Record]], pd.DataFrame]] = {
        "runs": tidy_runs,
        "curves": tidy_curves,
        "provenance": tidy_provenance,
    }
    for name, make in tables.items():
        write_frame(folder / f"{name}.parquet", make(records))


def write_frame(path: Path, frame: pd.DataFrame) -> None:
    """A pandas DataFrame as Parquet; the same frame gives the same bytes."""
    with atomic_path(path) as temporary:
        frame.to_parquet(temporary, compression="zstd", index=False)
