"""Tidy tables that are damaged, or that do not agree with what they were made from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.analysis.verdicts import damage
from experiments.declare import registry
from experiments.declare.product import Product
from experiments.errors import UserError
from experiments.files import DamagedFileError, read_json
from experiments.products import computing
from experiments.products.doctor.finding import NOT_TOUCHED, Finding, misplaced
from experiments.products.tidy_tables import Made, read_provenance
from experiments.runs.store import Store, Stored


@dataclass(frozen=True)
class _Trouble:
    """What is wrong with the tables of a product.

    Attributes:
        text: for the report.
        outdated: the tables are whole, so without scale.json and claims.json, whose absence makes
            the workflow run again, they may stay.
        stale: they are of other code.
    """

    text: str
    outdated: bool = False
    stale: bool = False


def tables(store: Store, looked: dict[str, Stored]) -> Iterator[Finding]:
    """Findings about the tables and verdicts of every product."""
    for name, product in registry.products().items():
        folder = store.folder / name
        if not folder.is_dir() or not any(folder.iterdir()):
            continue
        try:
            yield from _of(product, folder, looked)
        except UserError as error:
            yield Finding(str(error), NOT_TOUCHED)


def _of(product: Product, folder: Path, looked: dict[str, Stored]) -> Iterator[Finding]:
    """Findings about the tables and verdicts of one product."""
    claims = folder / "claims.json"
    tables = [folder / f"{table}.parquet" for table in product.tidy_tables]
    folders = [path for path in (*tables, folder / "scale.json", claims) if path.is_dir()]
    if folders:  # `fix` removes no folder
        yield from misplaced(*folders)
        return
    trouble = _trained(product, folder, looked) if product.sweeps else _computed(product, folder)
    if trouble:
        yield _finding(trouble, product, folder)
    elif fault := damage(claims) or _age(claims, folder / "runs.parquet"):
        yield Finding(fault, "removed, the next workflow judges them again", (claims,))


def _finding(trouble: _Trouble, product: Product, folder: Path) -> Finding:
    made = [folder / f for f in ("scale.json", "claims.json") if os.path.lexists(folder / f)]
    tables = [folder / f"{table}.parquet" for table in product.tidy_tables]
    broken = [] if trouble.outdated else [path for path in tables if os.path.lexists(path)]
    again = "gathers" if product.sweeps else "computes"
    remedy = f"removed, the next workflow {again} them again"
    return Finding(f"{folder}: {trouble.text}", remedy, (*made, *broken), stale=trouble.stale)


def _computed(product: Product, folder: Path) -> _Trouble | None:
    """What is wrong with tables of a computation."""
    state = computing.state(product, folder)
    if state == "damaged":
        return _Trouble("damaged tables")
    if state == "other code":
        return _Trouble("tables computed by other code", stale=True)
    return None


def _trained(product: Product, folder: Path, looked: dict[str, Stored]) -> _Trouble | None:
    """What is wrong with tables of runs, whose provenance is compared with the stored runs'."""
    there = [os.path.lexists(folder / f"{table}.parquet") for table in product.tidy_tables]
    if not all(there):
        return _Trouble("incomplete tables") if any(there) else None
    try:
        rows = read_provenance(product, folder)
        read_json(folder / "scale.json", Made)
        tabled = {row["id"]: (row["finished_at"], row["seconds"]) for row in rows}
    except FileNotFoundError:  # the workflow makes them again
        return None
    except DamagedFileError:
        return _Trouble("damaged tables")
    for run_id, made in tabled.items():
        record = looked[run_id].record if run_id in looked else None
        if record and made != (record.provenance.finished_at, record.provenance.seconds):
            since = f"{run_id} was trained since"
            return _Trouble(f"tables are older than their runs ({since})", outdated=True)
    return None


def _age(claims: Path, table: Path) -> str:
    with suppress(FileNotFoundError):
        if claims.stat().st_mtime_ns < table.stat().st_mtime_ns:
            return f"{claims}: older than its table"
    return ""
