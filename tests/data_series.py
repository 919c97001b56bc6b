"""Small data as files of a data folder, in the layout of the Hub."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_split(
    folder: Path, split: str, columns: Mapping[str, Any] | pa.Table, ends: Sequence[int] = ()
) -> list[Path]:
    """A split as `SPLIT-0000I-of-0000N.parquet`.

    Args:
        folder: where; it is made.
        split: such as "train".
        columns: lists of equal length, or a table.
        ends: rows after which a further file begins.

    Returns:
        The files, in their order.
    """
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    folder.mkdir(parents=True, exist_ok=True)
    cuts = [0, *ends, table.num_rows]
    paths = []
    for i, start in enumerate(cuts[:-1]):
        paths.append(folder / f"{split}-{i:05d}-of-{len(cuts) - 1:05d}.parquet")
        pq.write_table(table.slice(start, cuts[i + 1] - start), paths[-1])
    return paths
