"""Names of all data, which text a language model trains on, and the lines of WikiText-2.

The workflow imports this module at every parse, so what is slow to import is imported inside
functions.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from experiments.errors import UserError, unknown

LABELS = {
    "wikitext2": "WikiText-2",
    "wikipedia_sample": "106 English Wikipedia articles (gensim's sample)",
    "cifar10": "CIFAR-10",
    "digits": "scikit-learn's digits",
    "tiny_imagenet": "100 classes of Tiny-ImageNet",
    "imagenet": "ImageNet",
}
SOURCES = ("wikitext2", "wikipedia_sample")
SPLITS = ("train", "validation", "test")

# Tokens of WikiText-2, word level, with one <eos> a line.
PUBLISHED = {"train": 2_088_628, "validation": 217_646, "test": 245_569}

HUB = ("huggingface.co", 443)


def label(source: str) -> str:
    """The name of a source in a figure's subtitle."""
    if source not in LABELS:
        raise unknown("data", source, LABELS)
    return LABELS[source]


def cache_dir() -> Path:
    """Where prepared tokens are kept: `MUPKIT_CACHE`, or `.cache/mupkit` in the project."""
    given = os.environ.get("MUPKIT_CACHE")
    return Path(given).expanduser() if given else Path(__file__).parents[2] / ".cache" / "mupkit"


def resolve_source(requested: str | None = None) -> str:
    """The source that a language model's runs use: one of `SOURCES`.

    In this order: what is requested; WikiText-2 from `MUPKIT_DATA`, from the cache, or from the
    Hub if it answers; the Wikipedia sample inside gensim's wheel.

    Raises:
        UserError: an unknown source, or `MUPKIT_DATA` without the files of WikiText-2.
    """
    if requested is not None and requested not in SOURCES:
        raise unknown("data", requested, SOURCES)
    if requested == "wikipedia_sample":
        return requested
    if wikitext2_files() or requested or prepared_wikitext2() or hub_reachable():
        return "wikitext2"
    return "wikipedia_sample"


def data_root(holds: str) -> Path | None:
    """The folder that `MUPKIT_DATA` names, or None if the variable is not set.

    Raises:
        UserError: it does not exist; the message says what it should hold.
    """
    given = os.environ.get("MUPKIT_DATA")
    if not given:
        return None
    root = Path(given).expanduser()
    if not root.exists():
        raise UserError(f"MUPKIT_DATA: {root} does not exist; {data_mend(holds)}")
    return root


def data_mend(holds: str) -> str:
    """What to do about `MUPKIT_DATA` without some data, for the end of an error."""
    return (
        f"set MUPKIT_DATA to the folder that holds {holds}, or unset it, or run with what is built "
        "in: data=wikipedia_sample for text, data=digits for CIFAR-10"
    )


def wikitext2_files() -> dict[str, Path] | None:
    """The Parquet file of each split in `MUPKIT_DATA`, or None if the variable is not set.

    Raises:
        UserError: the folder or a file is missing.
    """
    holds = "wikitext/wikitext-2-v1"
    root = data_root(holds)
    if root is None:
        return None
    folder = root / holds
    files = {split: folder / f"{split}-00000-of-00001.parquet" for split in SPLITS}
    for path in files.values():
        if not path.exists():
            raise UserError(f"MUPKIT_DATA: {path} does not exist; {data_mend(holds)}")
    return files


def prepared_wikitext2() -> Path | None:
    """The cache folder of the whole of WikiText-2, if an earlier run prepared it.

    Only the published token counts pass: what was prepared from another folder's files must not
    come back under this name once `MUPKIT_DATA` is unset.
    """
    for meta in sorted(cache_dir().glob("wikitext2-full-*/meta.json")):
        try:
            if json.loads(meta.read_text(encoding="utf-8"))["counts"] == PUBLISHED:
                return meta.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


@functools.cache
def hub_reachable(seconds: float = 1.0) -> bool:
    """Whether the Hugging Face Hub accepts a connection within some seconds."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true"):
        return False
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(HUB, timeout=seconds).close()
        except OSError:
            return
        connected.set()

    # In a thread, because the time-out of a connection does not bound the look-up of its name.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return connected.is_set()


def lines_of_parquet(files: Mapping[str, Path]) -> dict[str, list[str]]:
    """The lines by split of Parquet files with a column `text`, one line a row."""
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
