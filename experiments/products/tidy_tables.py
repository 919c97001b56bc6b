"""Where the tidy tables of a product are, and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from experiments.declare.product import Product
from experiments.declare.scales import Scale, check_scale
from experiments.errors import UserError
from experiments.runs.places import results_dir

if TYPE_CHECKING:
    import pandas as pd


REFERENCE: Final = "reference"
Results = Scale | Literal["reference"]
"""A scale, or the committed reference."""


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
    runs = read_table(product, results, "runs")
    path = folder_of(product, results) / "scale.json"
    try:
        return runs, check_scale(json.loads(path.read_text())["scale"])
    except (OSError, ValueError, KeyError, UserError) as error:
        raise _damaged(path, error, product, results) from None


def read_table(product: Product, results: Results, table: str) -> pd.DataFrame:
    """One of a product's tidy tables (`Product.tidy_tables`), a pandas DataFrame.

    Raises:
        UserError: naming the file that is missing or damaged.
    """
    import pandas as pd

    path = folder_of(product, results) / f"{table}.parquet"
    if not path.exists():
        raise UserError(f"no {table} of {product.name} at {path}; {_remedy(product, results)}")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error, product, results) from None


def read_provenance(product: Product, folder: Path) -> list[dict[str, Any]]:
    """The rows of a product's provenance, after all its tables were read without an error.

    Raises:
        OSError, ValueError: if one of the tables is missing or damaged.
    """
    import pyarrow.parquet as pq

    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in product.tidy_tables}
    rows: list[dict[str, Any]] = tables["provenance"].to_pylist()
    return rows


def _remedy(product: Product, results: Results) -> str:
    return f"run `snakemake {product.name}`" if results != REFERENCE else "see `git status`"


def _damaged(path: Path, error: Exception, product: Product, results: Results) -> UserError:
    remedy = _remedy(product, results)
    return UserError(f"{path} is damaged ({type(error).__name__}); delete it, {remedy}")
