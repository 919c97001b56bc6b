"""Which text a language model trains on, and the lines of WikiText-2.

The workflow imports this module at every parse, so what is slow to import is imported inside
functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data import places
from experiments.data.parquet import text_rows
from experiments.data.places import hub_reachable, split_files
from experiments.errors import UserError, unknown

TEXT_SOURCES = {
    "wikitext2": "WikiText-2",
    "wikipedia_sample": "106 English Wikipedia articles",
}
"""Names of the data sources, with what a figure calls them."""
SPLITS = ("train", "validation", "test")
# Part of the cache's names: raise it when the same files give other words or other ids.
RULES = "1"
HUB = ("Salesforce/wikitext", "wikitext-2-v1")  # repository and configuration
# Tokens of WikiText-2, word level, with one <eos> per line, and the digest of its 33,278 words in
# order of first occurrence, as `vocab.json` has them. Raw text has about as many tokens.
PUBLISHED = {"train": 2_088_628, "validation": 217_646, "test": 245_569}
VOCABULARY = "ad85e85308092d5a6492712c5b1b6304fbded6a14ebd8e83af56d4e9f7e0ed4e"


def choose_text(requested: str | None = None) -> str:
    """The data source that a language model's runs use: one of `TEXT_SOURCES`.

    In this order: what is requested; WikiText-2 from `MUPKIT_DATA`, from the cache, from that of
    the library `datasets`, or from the Hub if it answers; the built-in Wikipedia sample.

    Raises:
        UserError: an unknown data source, or `MUPKIT_DATA` without the files of WikiText-2.
    """
    if requested is not None and requested not in TEXT_SOURCES:
        raise unknown("data", requested, TEXT_SOURCES)
    if requested == "wikipedia_sample":
        return requested
    if wikitext2_files() or requested or prepared_wikitext2():
        return "wikitext2"
    if places.in_library_cache(*HUB) or hub_reachable():
        return "wikitext2"
    return "wikipedia_sample"


def wikitext2_files() -> dict[str, list[Path]] | None:
    """The Parquet files of each split in `MUPKIT_DATA`, or None if the variable is not set.

    Raises:
        UserError: the folder or a file is missing.
    """
    return split_files("wikitext/wikitext-2-v1", {s: s for s in SPLITS}, "wikipedia_sample")


def prepared_wikitext2() -> Path | None:
    """The cache folder of the whole of WikiText-2, if an earlier run prepared it."""
    return places.prepared(f"wikitext2-full-{RULES}-*", is_wikitext2)


def is_wikitext2(meta: Mapping[str, Any]) -> bool:
    """Whether what is known of a prepared text is what is known of WikiText-2."""
    return bool(meta["counts"] == PUBLISHED and meta["sha256"]["vocab.json"] == VOCABULARY)


def lines_of_parquet(files: Mapping[str, Sequence[Path]]) -> dict[str, list[str]]:
    """The lines by split of Parquet files with a column `text`, one line per row."""
    return {
        split: [text or "" for path in paths for _, (text,) in text_rows(path, ("text",))]
        for split, paths in files.items()
    }


def lines_of_hub() -> dict[str, list[str]]:
    """The lines by split of WikiText-2 on the Hugging Face Hub. Not tried: written offline."""
    try:
        from datasets import load_dataset

        data = load_dataset(*HUB)
        return {split: list(data[split]["text"]) for split in SPLITS}
    except Exception as error:  # the library raises many kinds
        raise UserError(
            f"data=wikitext2: cannot be had from the Hugging Face Hub ({type(error).__name__}); "
            "set MUPKIT_DATA to a folder that holds it, or run with data=wikipedia_sample"
        ) from error
