"""Pairs of sentences as ids of byte pairs, prepared once and kept in a cache of plain files.

A data source's pairs are written down as text, one sentence a line; ids for a vocabulary are made
from that. What is wrong with a pair (a null, an empty side, a NUL byte, more than `MOST_WORDS`
words, a word of more than `LONGEST_WORD` characters) is counted and left out of train. In
validation and test it is an error, since a score over other sentences compares with no other.

Source and target share one vocabulary, which is learned from train alone:

- Ids 0 to 3 are fairseq's `<s>`, `<pad>`, `</s>` and `<unk>`, then come the 256 bytes and what
  they merge to. So there is nothing that has no id: `<unk>` keeps its place and is never used.
- Merges stay inside words. Running text is parted into words, numbers and punctuation by GPT-2's
  rules. IWSLT14 is tokenized already and is parted at its spaces, so that `&apos;s` can be one id.
- A word's space belongs to its first byte pair. So decoding gives the text as it was, except that
  white space of any kind and length is read as one space.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from experiments.data import iwslt14, translation_source
from experiments.data.cache import cache_key, cached, read_meta, write_meta
from experiments.data.parquet import has_columns, text_rows
from experiments.data.places import cache_dir
from experiments.data.translation_source import DIRECTIONS, LABELS, LANGUAGES, RULES, SPLITS
from experiments.errors import UserError, unknown
from experiments.messages import note

SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
PAD, EOS = 1, 2
BYTES = 256

SCORED = ("validation", "test")
MOST_WORDS, LONGEST_WORD = 250, 1000  # as Moses' clean-corpus-n for WMT
ROWS = 10_000  # of pairs at once in memory

# Where a pair stands, German, English.
Pair = tuple[str, str | None, str | None]


@dataclass(frozen=True)
class Sentences:
    """One language of a split.

    Args:
        tokens: ids of all sentences, each with `</s>` at its end, (T,), memory-mapped.
        offsets: where each begins, and T, (N + 1,).
    """

    tokens: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.int32]:
        """The ids of a sentence, (L,)."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ids of each sentence, (N,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Translation:
    """A parallel corpus in one direction.

    Args:
        source, target: by split (train, validation, test).
        sources, references: running text of source and target, of validation and test.
        vocab_size: ids, the four special ones included.
        fingerprint: first 16 hexadecimal digits of the SHA-256 of vocabulary and ids.
        data_source: one of `experiments.data.translation_source.LABELS`.
        tokenizer: what made the ids.
    """

    source: dict[str, Sentences]
    target: dict[str, Sentences]
    sources: dict[str, list[str]]
    references: dict[str, list[str]]
    vocab_size: int
    fingerprint: str
    data_source: str
    tokenizer: Tokenizer = field(repr=False)

    def decode(self, ids: Iterable[int]) -> str:
        """Running text of the ids of a target sentence, up to the first `</s>`."""
        own = itertools.takewhile(lambda i: i != EOS, map(int, ids))
        text = self.tokenizer.decode(list(own), skip_special_tokens=True).strip()
        return _running(self.data_source, DIRECTIONS[self.data_source][1], text)


def load_translation(data_source: str, vocab_size: int) -> Translation:
    """The sentences of a data source with a vocabulary of `vocab_size` ids.

    Raises:
        UserError: unknown data source, impossible vocabulary, missing or damaged data.
    """
    if data_source not in LABELS:
        raise unknown("data", data_source, LABELS)
    least = len(SPECIALS) + BYTES
    if vocab_size < least:
        raise UserError(f"vocab_size: {vocab_size} is too small; give {least} or more")
    pairs, read = _origin(data_source)

    def write_pairs(new: Path) -> None:
        note(f"preparing {LABELS[data_source]} (once)")
        _write_pairs(new, data_source, read())

    def write_ids(new: Path) -> None:
        text = cached(pairs, _intact, write_pairs)
        note(f"learning {vocab_size} byte pairs of {LABELS[data_source]} (once)")
        _write_ids(new, text, data_source, vocab_size)

    # The name of the pairs' folder has the rules and the digest of the files that they are from.
    versions = map(importlib.metadata.version, ("tokenizers", "sacremoses"))
    key = cache_key({}, pairs.name, *versions)
    return cached(cache_dir() / f"{data_source}-{vocab_size}-{key}", _read, write_ids)


def _origin(data_source: str) -> tuple[Path, Callable[[], Mapping[str, Iterable[Pair]]]]:
    """Cache folder of a data source's pairs, and how to read them by split."""
    files = translation_source.files(data_source)
    if files:
        folder = _pairs_folder(data_source, cache_key(files))
        return folder, lambda: {split: _of_parquet(paths) for split, paths in files.items()}
    raw = translation_source.tarball() if data_source == "iwslt14" else None
    if raw:
        key = cache_key(raw, importlib.metadata.version("sacremoses"))
        folder = _pairs_folder(data_source, key)
        return folder, lambda: _of_tarball(raw)
    whole = translation_source.prepared(data_source)
    if whole is None:
        raise translation_source.missing(data_source)

    def lost() -> Mapping[str, Iterable[Pair]]:
        raise translation_source.missing(data_source)  # the cache was damaged

    return whole, lost


def _pairs_folder(data_source: str, key: str) -> Path:
    return cache_dir() / f"{data_source}-pairs-{RULES}-{key}"


# Pairs


def _of_parquet(paths: list[Path]) -> Iterator[Pair]:
    """The pairs of some Parquet files: one column a language, or `translation` with both."""
    nested = [f"translation.{language}" for language in LANGUAGES]
    for path in paths:
        for place, (de, en) in text_rows(path, nested if has_columns(path, nested) else LANGUAGES):
            yield place, de, en


def _of_tarball(files: Mapping[str, list[Path]]) -> dict[str, list[Pair]]:
    folder = files["de"][0].parent
    return {
        split: [(f"{folder}, pair {i} of {split}", *pair) for i, pair in enumerate(pairs)]
        for split, pairs in iwslt14.pairs_of_tarball(files).items()
    }


def _write_pairs(folder: Path, data_source: str, pairs: Mapping[str, Iterable[Pair]]) -> None:
    """Fill an empty folder with the text of all pairs."""
    counts = {}
    for split in SPLITS:
        kept, cased, left_out, first = 0, 0, 0, ""
        de_path, en_path = (_text(folder, split, language) for language in LANGUAGES)
        with (
            de_path.open("w", encoding="utf-8", newline="\n") as de_file,
            en_path.open("w", encoding="utf-8", newline="\n") as en_file,
        ):
            for place, de, en in pairs[split]:
                try:
                    lines = _line("de", de), _line("en", en)
                except ValueError as error:
                    if split != "train":
                        raise UserError(f"{place}: {error}; copy the file again") from error
                    left_out += 1
                    first = first or f"{place} ({error})"
                    continue
                de_file.write(lines[0])
                en_file.write(lines[1])
                kept += 1
                cased += any(line != line.lower() for line in lines)
        if left_out:
            note(f"{left_out} of {kept + left_out} training pairs are left out; first {first}")
        if not kept:
            raise UserError(
                f"data={data_source}: no pair in {split} can be used; copy its files again"
            )
        if _tokenized(data_source) and 2 * cased > kept:
            raise UserError(
                f"data={data_source}: most pairs of {split} have capital letters, so it is raw "
                "text; copy what fairseq's prepare-iwslt14.sh makes of it, or the folder de-en of "
                "the tarball"
            )
        counts[split] = kept
    write_meta(folder, {"counts": counts})
    meta = read_meta(folder)
    known = data_source in translation_source.COUNTS
    if known and meta and not translation_source.is_usual(data_source, meta):
        label = LABELS[data_source]
        note(f"data={data_source}: not the usual {label}, though figures will call it so")


def _line(language: str, text: str | None) -> str:
    """A sentence as a line with single spaces.

    Raises:
        ValueError: it cannot be used; says why.
    """
    text = text or ""
    words = text.split()
    if not words:
        raise ValueError(f"no text in `{language}`")
    if "\0" in text:
        raise ValueError(f"a NUL byte in `{language}`")
    if len(words) > MOST_WORDS:
        raise ValueError(f"{len(words)} words in `{language}`, more than {MOST_WORDS}")
    longest = max(map(len, words))
    if longest > LONGEST_WORD:
        raise ValueError(f"a word of {longest} characters in `{language}`")
    return " ".join(words) + "\n"


def _text(folder: Path, split: str, language: str) -> Path:
    return folder / f"{split}.{language}.txt"


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _intact(folder: Path) -> Path | None:
    """The cache folder of pairs; None if a file is missing or not what was written."""
    return folder if read_meta(folder) else None


# Ids


def _write_ids(folder: Path, pairs: Path, data_source: str, vocab_size: int) -> None:
    """Fill an empty folder with the vocabulary and ids of the pairs in another."""
    tokenizer = _learned(pairs, data_source, vocab_size)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    digest = hashlib.sha256("\n".join(word for word, _ in vocab).encode())
    for split, language in itertools.product(SPLITS, LANGUAGES):
        tokens, lengths = _encoded(tokenizer, _lines(_text(pairs, split, language)))
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        for name, array in (("tokens", tokens), ("offsets", offsets)):
            digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
            np.save(folder / f"{split}.{language}.{name}.npy", array, allow_pickle=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    texts = {
        f"{split}.{language}": [
            _running(data_source, language, line) for line in _lines(_text(pairs, split, language))
        ]
        for split, language in itertools.product(SCORED, LANGUAGES)
    }
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    write_meta(folder, {"source": data_source, "fingerprint": digest.hexdigest()[:16]})


def _learned(pairs: Path, data_source: str, vocab_size: int) -> Tokenizer:
    """Byte pairs of both languages of train.

    Raises:
        UserError: there are fewer of them.
    """
    tokenizer = Tokenizer(models.BPE())
    if _tokenized(data_source):
        parts = [
            pre_tokenizers.Split(" ", "merged_with_next"),
            pre_tokenizers.ByteLevel(use_regex=False),
        ]
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = (_lines(_text(pairs, "train", language)) for language in LANGUAGES)
    tokenizer.train_from_iterator(itertools.chain.from_iterable(text), trainer)
    size = tokenizer.get_vocab_size()
    if size < vocab_size:
        raise UserError(
            f"vocab_size: {vocab_size} is not possible with data={data_source}; "
            f"give {len(SPECIALS) + BYTES} to {size}"
        )
    return tokenizer


def _encoded(
    tokenizer: Tokenizer, lines: Iterator[str]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids of all lines in one array (T,), and their number in each line (N,)."""
    tokenizer.encode_special_tokens = True  # a `</s>` in the text is text
    parts: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    while chunk := list(itertools.islice(lines, ROWS)):
        ids = [[*line.ids, EOS] for line in tokenizer.encode_batch_fast(chunk)]
        parts.append(np.fromiter(itertools.chain.from_iterable(ids), np.int32))
        lengths += map(len, ids)
    return np.concatenate(parts), np.array(lengths, np.int64)


def _tokenized(data_source: str) -> bool:
    """Whether a data source's text comes in tokens."""
    return data_source == "iwslt14"


def _running(data_source: str, language: str, text: str) -> str:
    return iwslt14.detokenized(text, language) if _tokenized(data_source) else text


# Cache


def _read(folder: Path) -> Translation | None:
    """The sentences in a cache folder; None if a file is missing or not what was written."""
    meta = read_meta(folder)
    if meta is None:
        return None
    source, target = DIRECTIONS[meta["source"]]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    return Translation(
        source=_sentences(folder, source),
        target=_sentences(folder, target),
        sources={split: texts[f"{split}.{source}"] for split in SCORED},
        references={split: texts[f"{split}.{target}"] for split in SCORED},
        vocab_size=tokenizer.get_vocab_size(),
        fingerprint=meta["fingerprint"],
        data_source=meta["source"],
        tokenizer=tokenizer,
    )


def _sentences(folder: Path, language: str) -> dict[str, Sentences]:
    # Copy on write: torch wants memory that it may write to, and never does.
    return {
        split: Sentences(
            *(
                np.load(
                    folder / f"{split}.{language}.{name}.npy", mmap_mode="c", allow_pickle=False
                )
                for name in ("tokens", "offsets")
            )
        )
        for split in SPLITS
    }
