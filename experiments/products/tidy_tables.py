"""Where the tidy tables of a product are, and how they are read."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from experiments.declare.product import Product
from experiments.declare.scales import Scale
from experiments.errors import UserError
from experiments.files import (
    LARGEST,
    DamagedFileError,
    read_json,
    read_regular,
    sha256,
    write_atomically,
)
from experiments.runs.places import results_dir

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


REFERENCE: Final = "reference"
COLUMNS = {  # that a table of runs has beside those of its family
    "runs": ("id", "family", "data", "seed", "log2lr", "final_loss", "diverged"),
    "curves": ("id", "step", "loss"),
    "provenance": ("id", "code_version", "data_fingerprint", "matmul", "finished_at", "seconds"),
}
Results = str
"""A scale, "reference" for the committed runs, or the path of a folder that holds such results."""


class DamagedTableError(UserError):
    """A damaged table or scale.json, which can be made again.

    Attributes:
        damage: names the file and what is wrong with it.
    """

    def __init__(self, damage: str, remedy: str):
        super().__init__(f"{damage}; delete it, {remedy}")
        self.damage = damage


def folder_of(product: Product, results: Results) -> Path:
    """Where the tables and verdicts of a product are.

    Args:
        product: a figure or table.
        results: a scale, or "reference" for the committed runs.
    """
    return results_dir(results) / product.name


def claims_file(product: Product, results: Results) -> Path:
    """Where a product's verdicts are."""
    return folder_of(product, results) / "claims.json"


def read_runs(product: Product, results: Results) -> tuple[pd.DataFrame, Scale]:
    """The tidy table of a product, a pandas DataFrame, and the scale that it was made at.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    return read_table(product, results, "runs"), _made(product, results).scale


@dataclass(frozen=True)
class Made:
    """What scale.json says of the tables beside it: their scale, and digests by name of a table.

    Tables that an older version wrote have no digests.
    """

    scale: Scale
    sha256: dict[str, str] = field(default_factory=dict)


def write_made(product: Product, scale: Scale, folder: Path) -> None:
    """Write scale.json, after the tables."""
    digests = {table: sha256(folder / f"{table}.parquet") for table in product.tidy_tables}
    write_atomically(folder / "scale.json", json.dumps(asdict(Made(scale, digests))).encode())


def _made(product: Product, results: Results) -> Made:
    path = folder_of(product, results) / "scale.json"
    try:
        return read_json(path, Made)
    except FileNotFoundError:
        raise _missing("scale", path, product, results) from None
    except DamagedFileError as error:
        raise _damaged(error, product, results) from None


def read_table(product: Product, results: Results, table: str) -> pd.DataFrame:
    """One of a product's tidy tables (`Product.tidy_tables`), a pandas DataFrame.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    path = folder_of(product, results) / f"{table}.parquet"
    try:
        found: pd.DataFrame = table_of(path, product).to_pandas()
    except FileNotFoundError:
        raise _missing(table, path, product, results) from None
    except DamagedFileError as error:
        raise _damaged(error, product, results) from None
    return found


def table_of(path: Path, product: Product) -> pa.Table:
    """One of a product's tidy tables, whose bytes are those that scale.json has the digest of.

    Raises:
        FileNotFoundError: it is not there.
        DamagedFileError: naming the file, if it is damaged or not one of a product's tables.
        UserError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_regular(path, LARGEST["parquet"])
    with suppress(FileNotFoundError):
        made = read_json(path.with_name("scale.json"), Made).sha256.get(path.stem)
        if made not in (None, hashlib.sha256(content).hexdigest()):
            raise DamagedFileError(f"{path}: its content does not match its checksum")
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedFileError(f"{path}: {str(error).partition(chr(10))[0]}") from error
    needed = COLUMNS[path.stem] if product.sweeps else ()
    if lost := [column for column in needed if column not in table.column_names]:
        raise DamagedFileError(f"{path}: no column {', '.join(lost)}")
    return table


def read_provenance(product: Product, folder: Path) -> list[dict[str, Any]]:
    """The rows of a product's provenance, after all its tables were read without an error.

    Raises:
        FileNotFoundError, DamagedFileError: if one of the tables is missing or damaged.
    """
    tables = {n: table_of(folder / f"{n}.parquet", product) for n in product.tidy_tables}
    rows: list[dict[str, Any]] = tables["provenance"].to_pylist()
    return rows


def _remedy(product: Product, results: Results) -> str:
    return f"run `snakemake {product.name}`" if results != REFERENCE else "see `git status`"


def _missing(what: str, path: Path, product: Product, results: Results) -> UserError:
    return UserError(f"no {what} of {product.name} at {path}; {_remedy(product, results)}")


def _damaged(error: DamagedFileError, product: Product, results: Results) -> DamagedTableError:
    return DamagedTableError(f"damaged table: {error}", _remedy(product, results))
