"""Which text a language model trains on, and the lines of WikiText-2.

The workflow imports this module at every parse, so what is slow to import is imported inside
functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from experiments.data import places
from experiments.data.places import data_fix, data_root, hub_reachable
from experiments.errors import UserError, unknown

TEXT_SOURCES = {
    "wikitext2": "WikiText-2",
    "wikipedia_sample": "106 English Wikipedia articles (gensim's sample)",
}
"""Names of the data sources, with what a figure calls them."""
SPLITS = ("train", "validation", "test")
# Tokens of WikiText-2, word level, with one <eos> per line.
PUBLISHED = {"train": 2_088_628, "validation": 217_646, "test": 245_569}


def choose_text(requested: str | None = None) -> str:
    """The data source that a language model's runs use: one of `TEXT_SOURCES`.

    In this order: what is requested; WikiText-2 from `MUPKIT_DATA`, from the cache, or from the
    Hub if it answers; the Wikipedia sample inside gensim's wheel.

    Raises:
        UserError: an unknown data source, or `MUPKIT_DATA` without the files of WikiText-2.
    """
    if requested is not None and requested not in TEXT_SOURCES:
        raise unknown("data", requested, TEXT_SOURCES)
    if requested == "wikipedia_sample":
        return requested
    if wikitext2_files() or requested or prepared_wikitext2() or hub_reachable():
        return "wikitext2"
    return "wikipedia_sample"


def wikitext2_files() -> dict[str, Path] | None:
    """The Parquet file of each split in `MUPKIT_DATA`, or None if the variable is not set.

    Raises:
        UserError: the folder or a file is missing.
    """
    holds = "wikitext/wikitext-2-v1"
    root = data_root(holds, "wikipedia_sample")
    if root is None:
        return None
    folder = root / holds
    files = {split: folder / f"{split}-00000-of-00001.parquet" for split in SPLITS}
    for path in files.values():
        if not path.exists():
            raise UserError(
                f"MUPKIT_DATA: {path} does not exist; {data_fix(holds, 'wikipedia_sample')}"
            )
    return files


def prepared_wikitext2() -> Path | None:
    """The cache folder of the whole of WikiText-2, if an earlier run prepared it."""
    return places.prepared("wikitext2-full-*", PUBLISHED)


def lines_of_parquet(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """The lines by split of Parquet files with a column `text`, one line per row."""
    import pyarrow
    import pyarrow.parquet as pq

    lines = {}
    for split, path in files.items():
        try:
            lines[split] = pq.read_table(path)["text"].cast("string").fill_null("").to_pylist()
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise UserError(
                f"{path}: cannot be read as Parquet with a column `text` "
                f"({str(error).partition(chr(10))[0]}); copy the file again"
            ) from error
    return lines


def lines_of_hub() -> dict[str, list[str]]:
    """The lines by split of WikiText-2 on the Hugging Face Hub. Not tried: written offline."""
    try:
        from datasets import load_dataset

        data = load_dataset("Salesforce/wikitext", "wikitext-2-v1")
        return {split: list(data[split]["text"]) for split in SPLITS}
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"data=wikitext2: cannot be had from the Hugging Face Hub ({type(error).__name__}); "
            "set MUPKIT_DATA to a folder that holds it, or run with data=wikipedia_sample"
        ) from error
