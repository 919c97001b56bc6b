"""Rows of text in Parquet files, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.errors import UserError

ROWS = 10_000  # at once in memory

# Where a row stands, and its values.
Row = tuple[str, tuple[str | None, ...]]


def text_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of a Parquet file.

    Args:
        columns: names of text columns; "a.b" is the field b of a column a.

    Raises:
        UserError: a file that cannot be read, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet as pq

    row = 0
    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: no regular file; copy the file again")
    try:
        file = pq.ParquetFile(path)
        found = [file.schema.column(i).path for i in range(len(file.schema))]
        if not {*columns} <= {*found}:
            raise UserError(
                f"{path}: found columns {', '.join(found)}; wanted {', '.join(columns)}"
            )
        for batch in file.iter_batches(ROWS, columns=list(columns)):
            table = pyarrow.Table.from_batches([batch])
            if any("." in name for name in columns):
                table = table.flatten()
            values = [table[name].cast("string").to_pylist() for name in columns]
            for texts in zip(*values, strict=True):
                yield f"{path}, row {row}", texts
                row += 1
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as Parquet with text in {' and '.join(columns)} "
            f"({str(error).partition(chr(10))[0]}); copy the file again"
        ) from error
