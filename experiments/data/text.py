"""Word-level text as token ids, prepared once and kept in a cache of plain arrays.

A data source is prepared with its full vocabulary; a smaller vocabulary is cut from that.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.data import places, text_source, wikipedia
from experiments.data.cache import cache_key, cached, read_meta, write_meta
from experiments.data.text_source import SPLITS, TEXT_SOURCES
from experiments.errors import UserError, unknown
from experiments.messages import note

EOS, UNK = "<eos>", "<unk>"
Words = dict[str, list[list[str]]]  # by split and line

MIN_COUNT = 3  # rarer words of the Wikipedia sample are <unk>, as in WikiText
TOKEN = re.compile(r"@[-,.]@|\.{3}|(?:[^\W\d_]\.){2,}|(?<=\w)'\w+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Corpus:
    """A tokenized text.

    Args:
        tokens: ids by split (train, validation, test), int32, shape (tokens,), memory-mapped.
        vocab: words by id, in order of first occurrence.
        fingerprint: first 16 hexadecimal digits of the SHA-256 of the whole text's vocabulary
            and ids; the same for every `vocab_size`.
        data_source: one of `experiments.data.text_source.TEXT_SOURCES`.
    """

    tokens: dict[str, NDArray[np.int32]]
    vocab: list[str]
    fingerprint: str
    data_source: str


def load_corpus(data_source: str, vocab_size: int) -> Corpus:
    """The tokens of a data source with a vocabulary of `vocab_size` words.

    The vocabulary keeps the most frequent words of train (the first to occur among equals) and
    `<unk>`, which stands for all others. One `<eos>` ends every line, including blank ones.

    Raises:
        UserError: unknown data source, impossible vocabulary, missing or damaged data.
    """
    if data_source not in TEXT_SOURCES:
        raise unknown("data", data_source, TEXT_SOURCES)
    folder, origin, read = _origin(data_source)

    def fill(new: Path) -> None:
        note(f"preparing {TEXT_SOURCES[data_source]} from {origin} (once)")
        meta = _write(new, _encode(data_source, read()))
        if data_source == "wikitext2" and not text_source.is_wikitext2(meta):
            note(f"{origin}: not the published WikiText-2, though figures will call it so")

    whole = cached(folder, _read, fill)
    size = len(whole.vocab)
    if not 2 <= vocab_size <= size:
        raise UserError(
            f"vocab_size: {vocab_size} is not possible with data={data_source}; give 2 to {size}"
        )
    if vocab_size == size:
        return whole
    folder = (
        places.cache_dir() / f"{data_source}-{vocab_size}-{text_source.RULES}-{whole.fingerprint}"
    )

    def fill_cut(new: Path) -> None:
        _write(new, _cut(whole, vocab_size))

    return cached(folder, _read, fill_cut)


def _origin(data_source: str) -> tuple[Path, str, Callable[[], Words]]:
    """Cache folder of a data source with its full vocabulary, its origin, and how to read it."""
    root = places.cache_dir()
    if data_source == "wikipedia_sample":
        key = cache_key({}, wikipedia.SHA256)
        return (
            root / f"{data_source}-full-{text_source.RULES}-{key}",
            str(wikipedia.SAMPLE),
            _sample_words,
        )
    files = text_source.wikitext2_files()
    if files:
        folder = root / f"{data_source}-full-{text_source.RULES}-{cache_key(files)}"
        where = str(files["train"][0].parent)
        return folder, where, lambda: _split_words(text_source.lines_of_parquet(files), where)
    folder = (
        text_source.prepared_wikitext2() or root / f"{data_source}-full-{text_source.RULES}-hub"
    )
    hub = "the Hugging Face Hub"
    return folder, hub, lambda: _split_words(text_source.lines_of_hub(), hub)


# Words


def _split_words(lines: dict[str, list[str]], origin: str) -> Words:
    """Text that is tokenized already.

    Raises:
        UserError: there is none in a split, or it is the raw text, in which no word is `<unk>`.
    """
    words = {split: [line.split() for line in lines[split]] for split in SPLITS}
    for split in SPLITS:
        if not any(words[split]):
            raise UserError(f"{origin}: no words in {split}; copy its files again")
    if not any(UNK in line for line in words["train"]):
        raise UserError(
            f"{origin}: no {UNK} in train, so it is raw text; copy wikitext-2-v1, in which rare "
            f"words are {UNK}"
        )
    return words


def tokenize(text: str) -> list[str]:
    """Words and punctuation apart, as WikiText has them: `10 @,@ 000`, `role @-@ play`, `it 's`."""
    text = re.sub(r"(?<=\w)-(?=\w)", " @-@ ", text)
    text = re.sub(r"(?<=\d)([,.])(?=\d)", r" @\1@ ", text)
    return TOKEN.findall(text)


def _sample_words() -> Words:
    """The Wikipedia sample, words that are rare in train as `<unk>`.

    Whole articles in the file's order: those whose middle is in the first 90 % of the text are
    train, in the next 5 % validation, in the last 5 % test.
    """
    articles = [[tokenize(line) for line in lines] for lines in wikipedia.articles()]
    sizes = np.array([sum(len(line) + 1 for line in lines) for lines in articles])
    middles = (sizes.cumsum() - sizes / 2) / sizes.sum()
    words: Words = {split: [] for split in SPLITS}
    for lines, split in zip(articles, np.searchsorted([0.9, 0.95], middles, "right"), strict=True):
        words[SPLITS[split]] += lines
    counts = Counter(word for line in words["train"] for word in line)
    return {
        split: [[w if counts[w] >= MIN_COUNT else UNK for w in line] for line in words[split]]
        for split in SPLITS
    }


# Ids


def _encode(data_source: str, words: Words) -> Corpus:
    """Ids in order of first occurrence over train, validation and test."""
    ids: dict[str, int] = {}
    tokens = {}
    for split in SPLITS:
        flat = (word for line in words[split] for word in (*line, EOS))
        tokens[split] = np.fromiter((ids.setdefault(word, len(ids)) for word in flat), np.int32)
    ids.setdefault(UNK, len(ids))
    digest = hashlib.sha256("\n".join(ids).encode())
    for split in SPLITS:
        digest.update(tokens[split].astype("<i4").tobytes())
    return Corpus(tokens, list(ids), digest.hexdigest()[:16], data_source)


def _cut(whole: Corpus, vocab_size: int) -> Corpus:
    """The corpus with all but its most frequent words as `<unk>`."""
    unk = whole.vocab.index(UNK)
    counts = np.bincount(whole.tokens["train"], minlength=len(whole.vocab))
    counts[unk] = counts.max() + 1
    # Ids are in order of first occurrence, so that a stable sort breaks ties by it.
    kept = np.sort(np.argsort(-counts, kind="stable")[:vocab_size])
    new_ids = np.full(len(whole.vocab), np.searchsorted(kept, unk), np.int32)
    new_ids[kept] = np.arange(vocab_size)
    tokens = {split: new_ids[ids] for split, ids in whole.tokens.items()}
    return Corpus(tokens, [whole.vocab[i] for i in kept], whole.fingerprint, whole.data_source)


# Cache


def _read(folder: Path) -> Corpus | None:
    """The corpus in a cache folder; None if a file is missing or not what was written."""
    meta = read_meta(folder)
    if meta is None:
        return None
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    tokens = {
        split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
        for split in SPLITS
    }
    return Corpus(tokens, vocab, meta["fingerprint"], meta["source"])


def _write(folder: Path, corpus: Corpus) -> dict[str, Any]:
    """Fill an empty folder with a corpus; return what is known of it."""
    for split, ids in corpus.tokens.items():
        np.save(folder / f"{split}.npy", ids, allow_pickle=False)
    vocab = json.dumps(corpus.vocab, ensure_ascii=False)
    (folder / "vocab.json").write_text(vocab, encoding="utf-8")
    meta = {
        "source": corpus.data_source,
        "fingerprint": corpus.fingerprint,
        "counts": {split: len(ids) for split, ids in corpus.tokens.items()},
    }
    return write_meta(folder, meta)
