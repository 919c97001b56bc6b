"""From stored runs to tidy tables: one row per run, per (run, step), and per run its provenance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.declare.product import Product
from experiments.errors import UserError
from experiments.files import DamagedFileError, atomic_path
from experiments.products.tidy_tables import Results, folder_of, table_of
from experiments.runs.store import Record
from experiments.runs.versions import code_version

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
    """One row per (run, step): id, step, loss, and the loss on held-out data where it is known.

    A pandas DataFrame; it has no column `valid_loss` if no run measured one.
    """
    import numpy as np
    import pandas as pd

    # By columns: a dictionary for each row takes a hundred times the memory of its numbers.
    records = list(records)
    steps = [len(r.losses) for r in records]
    ids = np.empty(len(records), dtype=object)
    ids[:] = [r.id for r in records]
    columns = {
        "id": np.repeat(ids, steps),
        "step": np.concatenate([np.arange(0), *map(np.arange, steps)]),
        "loss": np.fromiter(chain.from_iterable(r.losses for r in records), float, sum(steps)),
    }
    if any(r.valid_losses for r in records):
        measured = (r.valid_losses.get(step, nan) for r in records for step in range(len(r.losses)))
        columns["valid_loss"] = np.fromiter(measured, float, sum(steps))
    return pd.DataFrame(columns)


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


def made_by_other_code(product: Product, results: Results) -> int:
    """How many runs in a product's tables other code made than the checkout's; 0 without tables."""
    path = folder_of(product, results) / "provenance.parquet"
    if not product.sweeps:
        return 0
    try:
        versions = table_of(path, product)["code_version"].to_pylist()
    except (FileNotFoundError, DamagedFileError, UserError):
        return 0  # whoever draws from a damaged table names it
    now = code_version(product.sweeps[0].config.family)
    return sum(version != now for version in versions)
