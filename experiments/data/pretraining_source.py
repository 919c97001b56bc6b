"""Which running text a model is pretrained on, and where its files are.

The workflow imports this module at every parse, so nothing slow is imported here.
"""

from __future__ import annotations

from pathlib import Path

from experiments.data.places import data_fix, data_root, split_files
from experiments.data.text_source import SPLITS, TEXT_SOURCES
from experiments.errors import UserError, unknown

BUILT_IN = "wikipedia_sample"
PRETRAINING_SOURCES = {
    "wikipedia_novels": "English Wikipedia (a sample) and novels",
    BUILT_IN: TEXT_SOURCES[BUILT_IN],
}
"""Names of the data sources, with what a figure calls them. Those of the paper are not public."""
# Folders in MUPKIT_DATA, whose Parquet files have a column `text`.
ARTICLES, NOVELS = "wikipedia_en_sample", "english_novels"
HOLDS = f"{ARTICLES} and {NOVELS}"


def choose_pretraining(requested: str | None = None) -> str:
    """The data source that pretraining uses: one of `PRETRAINING_SOURCES`.

    In this order: what is requested; articles and novels of `MUPKIT_DATA`; the built-in Wikipedia
    sample.

    Raises:
        UserError: an unknown data source, or `MUPKIT_DATA` without the files.
    """
    if requested is not None and requested not in PRETRAINING_SOURCES:
        raise unknown("data", requested, PRETRAINING_SOURCES)
    if requested == BUILT_IN:
        return requested
    if pretraining_files():
        return "wikipedia_novels"
    if requested:
        raise UserError(f"data={requested}: {data_fix(HOLDS, BUILT_IN)}")
    return BUILT_IN


def pretraining_files() -> dict[str, dict[str, list[Path]]] | None:
    """The Parquet files by folder and split, or None if `MUPKIT_DATA` is not set.

    Raises:
        UserError: a folder or a file is missing.
    """
    if data_root(HOLDS, BUILT_IN) is None:
        return None
    splits = {split: split for split in SPLITS}
    return {folder: split_files(folder, splits, BUILT_IN) or {} for folder in (ARTICLES, NOVELS)}
