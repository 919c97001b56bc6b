"""Numbers that come from a function instead of trainings, with their provenance.

Snakemake computes them again when the code or the settings change; the provenance says which code
they are of.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from experiments.declare.product import Product
from experiments.declare.references import load
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import DamagedFileError
from experiments.products.tidy_tables import read_provenance
from experiments.products.tidying import write_frame
from experiments.runs.store import State
from experiments.runs.versions import computing_version, git_state


def compute(product: Product, scale: Scale, data: str, folder: Path) -> None:
    """Write runs.parquet and provenance.parquet of a product without sweeps.

    Args:
        product: with a computation; the tables of a schematic are empty and say no code version.
        scale: the computation gets its settings.
        data: the data source that the computation gets.
        folder: of the tables.

    The function may say `device` and `data_fingerprint` in the `attrs` of its table.
    """
    import pandas as pd

    start = time.perf_counter()
    frame, recorded, code = pd.DataFrame(), "{}", ""
    if product.computation is not None:
        settings = product.computation.at(scale)
        recorded = json.dumps(settings)  # it may refuse, so before the computation
        code = computing_version(product.computation)
        frame = load(product.computation.function, product.name)(settings, data)
    said = {key: frame.attrs.get(key) for key in ("device", "data_fingerprint")}
    frame.attrs = {}
    commit, dirty = git_state()
    provenance = {
        "id": product.name,
        "code_version": code,
        "git_commit": commit,
        "git_dirty": dirty,
        "settings": recorded,
        "data": data,
        "data_fingerprint": said["data_fingerprint"] or "",
        "torch_version": version("torch"),
        "device": said["device"] or "cpu",
        "seconds": time.perf_counter() - start,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_frame(folder / "provenance.parquet", pd.DataFrame([provenance]))
    write_frame(folder / "runs.parquet", frame)


def state(product: Product, folder: Path) -> State:
    """The state of a product without sweeps: done, missing, damaged, or of other code.

    Other code than the checkout's computed its tables then; a schematic's are never of other code.
    """
    if not all((folder / f"{table}.parquet").exists() for table in product.tidy_tables):
        return "missing"
    try:
        code = [row["code_version"] for row in read_provenance(product, folder)]
    except (DamagedFileError, KeyError):
        return "damaged"
    if product.computation and code != [computing_version(product.computation)]:
        return "other code"
    return "done"


def forget(product: Product, folder: Path) -> int:
    """Drop the tables of a product without sweeps, so that it is computed again.

    The verdicts go with them, since Snakemake does nothing about a lost table alone.

    Returns:
        How many files were dropped.

    Raises:
        UserError: if a folder has the name of one; then none is dropped.
    """
    names = (*(f"{table}.parquet" for table in product.tidy_tables), "scale.json", "claims.json")
    found = [folder / name for name in names if (folder / name).exists()]
    for path in found:
        if path.is_dir():
            raise UserError(f"{path}: a folder, not a file; move it away")
    for path in found:
        path.unlink()
    return len(found)
