"""Rows of Parquet files, a few at a time. What they hold is found by names and types of columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

ROWS = 10_000  # at once in memory
IMAGES = 500  # likewise
IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels")

# Where a row stands, and its values.
Row = tuple[str, tuple[str | None, ...]]
# Where an image stands, its encoded bytes, the number or the name of its class.
Labelled = tuple[str, bytes | None, int | str | None]


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file.

    Raises:
        UserError: it cannot be read, then or inside the block.
    """
    import pyarrow
    import pyarrow.parquet as pq

    if not path.is_file():  # a pipe would be waited for
        raise UserError(f"{path}: no regular file; copy the file again")
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: cannot be read as Parquet ({reason}); copy the file again") from (
            error
        )


def has_columns(path: Path, columns: Sequence[str]) -> bool:
    """Whether a Parquet file has columns of these names; "a.b" is the field b of a column a."""
    with opened(path) as file:
        return {*columns} <= {*_leaves(file)}


def _leaves(file: pq.ParquetFile) -> list[str]:
    return [file.schema.column(i).path for i in range(len(file.schema))]


def text_rows(path: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a Parquet file.

    Args:
        columns: names of text columns; "a.b" is the field b of a column a.
        numbers: those of them that may hold integers, which are given as text.

    Raises:
        UserError: a file that cannot be read, or lacks a column of text.
    """
    import pyarrow

    row = 0
    with opened(path) as file:
        found = _leaves(file)
        if not {*columns} <= {*found}:
            raise UserError(
                f"{path}: found columns {', '.join(found)}; wanted {', '.join(columns)}"
            )
        for batch in file.iter_batches(ROWS, columns=list(columns)):
            table = pyarrow.Table.from_batches([batch])
            if any("." in name for name in columns):
                table = table.flatten()
            values = []
            for name in columns:
                if not _is_text(table[name].type, numbers=name in numbers):
                    raise UserError(
                        f"{path}: found {table[name].type} in the column `{name}`; wanted text"
                    )
                values.append(table[name].cast("string").to_pylist())
            for texts in zip(*values, strict=True):
                yield f"{path}, row {row}", texts
                row += 1


def _is_text(kind: Any, numbers: bool = False) -> bool:
    """Whether a column's type stands for text; a column of nulls alone may be text."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests = [types.is_string, types.is_large_string, types.is_string_view, types.is_null]
    tests += [types.is_binary, types.is_large_binary] + numbers * [types.is_integer]
    return any(test(kind) for test in tests)


def image_columns(path: Path) -> tuple[str, str]:
    """The names of a Parquet file's columns of encoded images and of their labels.

    Images are bytes, or a struct with a field `bytes`; labels are integers, or names of classes.

    Raises:
        UserError: there is not one column of each; the message says what was found.
    """
    from pyarrow import types

    with opened(path) as file:
        schema = file.schema_arrow
    images = [name for name in IMAGE_COLUMNS if name in schema.names]
    labels = [name for name in LABEL_COLUMNS if name in schema.names]
    usable = len(images) == len(labels) == 1
    if usable:
        kind = schema.field(images[0]).type
        if types.is_struct(kind):
            inner = {field.name: field.type for field in kind}
            kind = inner.get("bytes", kind)
        usable = types.is_binary(kind) or types.is_large_binary(kind)
        usable = usable and _is_text(schema.field(labels[0]).type, numbers=True)
    if not usable:
        found = ", ".join(f"`{field.name}` ({field.type})" for field in schema)
        raise UserError(
            f"{path}: found columns {found}; wanted one of encoded images, "
            f"{_either(IMAGE_COLUMNS)} (bytes, or a struct with `bytes`), and one of labels, "
            f"{_either(LABEL_COLUMNS)} (integers or names)"
        )
    return images[0], labels[0]


def _either(names: Sequence[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)


def image_rows(path: Path) -> Iterator[Labelled]:
    """The images of a Parquet file; see `image_columns`.

    Raises:
        UserError: a file that cannot be read, lacks a column, or names images in other files.
    """
    image, label = image_columns(path)
    with opened(path) as file:
        labels = _classes(file.read(columns=[label])[label])
        row = 0
        for batch in file.iter_batches(IMAGES, columns=[image]):
            for value in batch.column(0).to_pylist():
                where = f"{path}, row {row}"
                yield where, encoded(where, value), labels[row]
                row += 1


def encoded(where: str, value: Any) -> bytes | None:
    """The bytes of an image's value.

    Raises:
        UserError: it names another file instead.
    """
    if not isinstance(value, dict):
        return value  # type: ignore[no-any-return]
    if value["bytes"] is None and value.get("path"):
        raise UserError(
            f"{where}: found no image but the name of one, {value['path']!r}; write the data set "
            "with the images' bytes in it"
        )
    return value["bytes"]  # type: ignore[no-any-return]


def _classes(column: Any) -> list[int | str | None]:
    """The labels of a column: names of classes as they are, unless all of them are numbers."""
    from pyarrow import types

    if types.is_integer(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    names = column.cast("string").to_pylist()
    if all(name is None or name.isdecimal() for name in names):
        return [None if name is None else int(name) for name in names]
    return names  # type: ignore[no-any-return]
