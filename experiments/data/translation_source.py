"""Which pairs of sentences a translation model trains on, and where their files are.

The workflow imports this module at every parse, so nothing slow is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from experiments.data import places
from experiments.data.places import data_root, looked_for, series
from experiments.errors import UserError, unknown

# Names of the data sources, with what a figure calls them; the first of each is the paper's.
IWSLT_SOURCES = {"iwslt14": "IWSLT14 De-En", "multi30k": "Multi30k De-En"}
WMT_SOURCES = {"wmt14": "WMT14 En-De", "tatoeba": "Tatoeba En-De"}
LABELS = {**IWSLT_SOURCES, **WMT_SOURCES}
SPLITS = ("train", "validation", "test")
LANGUAGES = ("de", "en")
# Source and target language.
DIRECTIONS = {
    **dict.fromkeys(IWSLT_SOURCES, ("de", "en")),
    **dict.fromkeys(WMT_SOURCES, ("en", "de")),
}
# Folder in MUPKIT_DATA. Its Parquet files have the columns `de` and `en`, or a column `translation`
# with both, as on the Hub.
LAYOUT = {
    "iwslt14": "iwslt14_de_en",
    "multi30k": "multi30k",
    "wmt14": "wmt14/de-en",
    "tatoeba": "tatoeba_de_en",
}
# Pairs of the usual sets, and digests of their text as the cache has it, one sentence a line, where
# they are known; other files of the same name are another set.
COUNTS = {
    "iwslt14": {"train": 160_239, "validation": 7_283, "test": 6_750},
    "multi30k": {"train": 29_000, "validation": 1_014, "test": 1_000},
    "tatoeba": {"train": 165_197, "validation": 2_000, "test": 2_000},
}
DIGESTS = {
    "multi30k": {
        "train.de.txt": "550c2612c7ae45ed46754e67c3011fde500b1bf88592a376e2ed6126903766f7",
        "train.en.txt": "f7cb7c7d411f6039a15de94de8c4d1709fada7b7474791598fd18451ec62427d",
    },
    "tatoeba": {
        "train.de.txt": "4c1d6e51c285f4289b3b5223882bb44bb5784c7ac599d9a4034525a71d5e4a09",
        "train.en.txt": "ade80f3443b4cfd67ce3f362745729968941371dc34c349ff02e2ead4d18149f",
    },
}
# Files of IWSLT14's tarball, in its folder de-en: training text, then those that fairseq joins as
# the test set, in its order.
TARBALL = {
    language: (
        f"train.tags.de-en.{language}",
        f"IWSLT14.TED.dev2010.de-en.{language}.xml",
        f"IWSLT14.TEDX.dev2012.de-en.{language}.xml",
        *(f"IWSLT14.TED.tst{year}.de-en.{language}.xml" for year in (2010, 2011, 2012)),
    )
    for language in LANGUAGES
}
# Part of the cache's names: raise it when the same files give other sentences or other ids.
RULES = "1"


def choose_iwslt(requested: str | None = None) -> str:
    """The data source of German to English: IWSLT14 if it can be had, else Multi30k.

    In this order: what is requested; the files of IWSLT14 or of Multi30k in `MUPKIT_DATA`; what an
    earlier run prepared of either.

    Raises:
        UserError: an unknown data source, an incomplete series of files, or neither can be had.
    """
    return _choose(requested, IWSLT_SOURCES)


def choose_wmt(requested: str | None = None) -> str:
    """The data source of English to German: WMT14 if it can be had, else Tatoeba.

    The order and the errors are those of `choose_iwslt`.
    """
    return _choose(requested, WMT_SOURCES)


def _choose(requested: str | None, sources: Mapping[str, str]) -> str:
    if requested is not None:
        if requested not in sources:
            raise unknown("data", requested, sources)
        return requested
    for source in sources:
        if files(source) or (source == "iwslt14" and tarball()):
            return source
    for source in sources:
        if prepared(source):
            return source
    folders = " or ".join(LAYOUT[source] for source in sources)
    raise UserError(
        f"neither {' nor '.join(sources.values())} can be had, and nothing to translate is built "
        f"in; set MUPKIT_DATA to the folder that holds {folders} with {looked_for(SPLITS)}"
    )


def files(data_source: str) -> dict[str, list[Path]] | None:
    """The Parquet files of each split in `MUPKIT_DATA`, or None if a split is not there.

    Raises:
        UserError: the folder that the variable names is missing, or a file of a series.
    """
    root = data_root(LAYOUT[data_source])
    if root is None:
        return None
    found = {split: series(root / LAYOUT[data_source], split) for split in SPLITS}
    return found if all(found.values()) else None


def tarball() -> dict[str, list[Path]] | None:
    """The files of IWSLT14's tarball by language, or None if `MUPKIT_DATA` has no folder of them.

    Raises:
        UserError: the folder that the variable names is missing, or a file of the tarball.
    """
    root = data_root(LAYOUT["iwslt14"])
    folder = root / LAYOUT["iwslt14"] / "de-en" if root else None
    if folder is None or not folder.is_dir():
        return None
    paths = {language: [folder / name for name in names] for language, names in TARBALL.items()}
    for path in (*paths["de"], *paths["en"]):
        if not path.is_file():
            raise UserError(f"MUPKIT_DATA: {path} does not exist; extract de-en.tgz there again")
    return paths


def prepared(data_source: str) -> Path | None:
    """The cache folder of the pairs of a whole usual set, if an earlier run prepared it."""
    return places.prepared(f"{data_source}-pairs-{RULES}-*", partial(is_usual, data_source))


def is_usual(data_source: str, meta: Mapping[str, Any]) -> bool:
    """Whether what is known of prepared pairs is what is known of the usual set."""
    digests = DIGESTS.get(data_source, {})
    if any(meta["sha256"].get(name) != digest for name, digest in digests.items()):
        return False
    return data_source in COUNTS and bool(meta["counts"] == COUNTS[data_source])


def missing(data_source: str) -> UserError:
    """The error for a data source whose files are not there."""
    folder = LAYOUT[data_source]
    root = data_root(folder)
    if root is None:
        return UserError(
            f"data={data_source}: MUPKIT_DATA is not set; set it to the folder that holds {folder}"
        )
    absent = [split for split in SPLITS if not series(root / folder, split)]
    more = ", or the folder de-en of the tarball de-en.tgz" if data_source == "iwslt14" else ""
    return UserError(
        f"MUPKIT_DATA: {root / folder} does not hold {looked_for(absent)}; "
        f"data={data_source} wants {', '.join(SPLITS)}{more}"
    )
