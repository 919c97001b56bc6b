"""Running text as ids of byte pairs or word pieces, prepared once and kept in the cache.

A split is one array of ids, its documents in the files' order, each closed by a sign of its own. A
document is an article, or all paragraphs of a novel. The vocabulary is learned from train alone.

- bpe: bytes and what they merge to, parted into words, numbers and punctuation by GPT-2's rules;
  id 0 is `<|endoftext|>`.
- wordpiece: BERT's uncased pieces; ids 0 to 4 are `[PAD]`, `[UNK]`, `[CLS]`, `[SEP]`, `[MASK]`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from experiments.data import wikipedia
from experiments.data.cache import cache_key, cached, read_meta, write_meta
from experiments.data.parquet import text_rows
from experiments.data.places import cache_dir, data_fix
from experiments.data.pretraining_source import (
    BUILT_IN,
    HOLDS,
    NOVELS,
    PRETRAINING_SOURCES,
    pretraining_files,
)
from experiments.data.text_source import SPLITS
from experiments.errors import UserError, unknown
from experiments.messages import note

Kind = Literal["bpe", "wordpiece"]
SPECIALS: dict[Kind, tuple[str, ...]] = {
    "bpe": ("<|endoftext|>",),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
}
END: dict[Kind, str] = {"bpe": "<|endoftext|>", "wordpiece": "[SEP]"}
"""What closes a document."""
BYTES = 256
PIECES = 1000  # of BERT's alphabet, at most: the most frequent characters
DOCUMENTS = 500  # at once in memory
# Part of the cache's names: raise it when the same files give other documents or other ids.
RULES = "2"


@dataclass(frozen=True)
class Text:
    """A tokenized text.

    Args:
        tokens: ids by split (train, validation, test), int32, shape (tokens,), memory-mapped.
        fingerprint: first 16 hexadecimal digits of the SHA-256 of vocabulary and ids.
        tokenizer: what made the ids.
    """

    tokens: dict[str, NDArray[np.int32]]
    fingerprint: str
    tokenizer: Tokenizer = field(repr=False)


def load_text(data_source: str, vocab_size: int, kind: Kind) -> Text:
    """The ids of a data source with a vocabulary of `vocab_size` ids.

    Raises:
        UserError: unknown data source, impossible vocabulary, missing or damaged data.
    """
    if data_source not in PRETRAINING_SOURCES:
        raise unknown("data", data_source, PRETRAINING_SOURCES)
    least = len(SPECIALS[kind]) + (BYTES if kind == "bpe" else 1)
    if vocab_size < least:
        raise UserError(f"vocab_size: {vocab_size} is too small; give {least} or more")
    key, read = _origin(data_source)

    def fill(new: Path) -> None:
        label = PRETRAINING_SOURCES[data_source]
        note(f"learning {vocab_size} ids ({kind}) of {label} (once, a few minutes at most)")
        _fill(new, read(), data_source, vocab_size, kind)

    folder = cache_dir() / f"{data_source}-{kind}-{vocab_size}-{key}"
    return cached(folder, _read, fill)


# Documents

Documents = dict[str, list[str]]
"""By split."""
Document = tuple[str, str]
"""Where a document begins, and its text."""


def _origin(data_source: str) -> tuple[str, Callable[[], Documents]]:
    """The key of a data source's ids, and how to read its documents."""
    rules = (RULES, importlib.metadata.version("tokenizers"))
    if data_source == BUILT_IN:
        return cache_key({}, *rules, wikipedia.SHA256), _sample
    files = pretraining_files()
    if files is None:
        raise UserError(f"data={data_source}: {data_fix(HOLDS, BUILT_IN)}")
    articles, novels = files.values()

    def read() -> Documents:
        return {
            split: [
                *_usable(_articles(articles[split]), split),
                *_usable(_novels(novels[split]), split),
            ]
            for split in SPLITS
        }

    named = {f"{folder}/{split}": files[folder][split] for folder in files for split in SPLITS}
    return cache_key(named, *rules), read


def _articles(paths: Iterable[Path]) -> Iterator[Document]:
    return ((where, text or "") for path in paths for where, (text,) in text_rows(path, ("text",)))


def _novels(paths: Iterable[Path]) -> Iterator[Document]:
    """The paragraphs of each novel as one document."""
    rows = itertools.chain.from_iterable(text_rows(path, ("text", "doc")) for path in paths)
    for _, paragraphs in itertools.groupby(rows, key=lambda row: row[1][1]):
        places, values = zip(*paragraphs, strict=True)
        yield places[0], "\n".join(text or "" for text, _ in values)


def novels_of(split: str) -> list[str]:
    """The novels of a split, one text each, a line for each paragraph.

    Raises:
        UserError: `MUPKIT_DATA` is not set, or lacks them.
    """
    files = pretraining_files()
    if files is None:
        raise UserError(f"MUPKIT_DATA: is not set; {data_fix(HOLDS)}")
    return [*_usable(_novels(files[NOVELS][split]), split)]


def _usable(documents: Iterable[Document], split: str) -> Iterator[str]:
    """The text of all documents.

    One that is empty or has a NUL byte is left out of train, which is told. In validation and test
    it is an error, since a loss on other text compares with no other.
    """
    left_out, first = 0, ""
    for place, text in documents:
        fault = "no text" if not text.strip() else "a NUL byte" if "\0" in text else ""
        if not fault:
            yield text
            continue
        if split != "train":
            raise UserError(f"{place}: {fault}; copy the file again")
        left_out += 1
        first = first or f"{place} ({fault})"
    if left_out:
        note(f"{left_out} training documents are left out; first {first}")


def _sample() -> Documents:
    """The articles of the Wikipedia sample by split.

    In the file's order, those whose middle is in the first 90 % of the text are train, in the next
    5 % validation, in the last 5 % test.
    """
    articles = ["\n".join(lines) for lines in wikipedia.articles()]
    sizes = np.array(list(map(len, articles)))
    middles = (sizes.cumsum() - sizes / 2) / sizes.sum()
    places = np.searchsorted([0.9, 0.95], middles, "right")
    return {
        split: [article for article, place in zip(articles, places, strict=True) if place == i]
        for i, split in enumerate(SPLITS)
    }


# Ids


def _fill(
    folder: Path, documents: Documents, data_source: str, vocab_size: int, kind: Kind
) -> None:
    """Fill an empty folder with the vocabulary and the ids of all splits."""
    tokenizer = _learned(documents["train"], data_source, vocab_size, kind)
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    digest = hashlib.sha256("\n".join(piece for piece, _ in vocab).encode())
    end = tokenizer.get_vocab()[END[kind]]
    for split in SPLITS:
        ids = np.fromiter(_ids(tokenizer, documents[split], end), np.int32)
        digest.update(ids.astype("<i4").tobytes())
        np.save(folder / f"{split}.npy", ids, allow_pickle=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_meta(folder, {"source": data_source, "fingerprint": digest.hexdigest()[:16]})


def _learned(text: list[str], data_source: str, vocab_size: int, kind: Kind) -> Tokenizer:
    """A vocabulary of the training text.

    Raises:
        UserError: the text has fewer ids.
    """
    special = list(SPECIALS[kind])
    trainer: trainers.BpeTrainer | trainers.WordPieceTrainer
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    else:
        tokenizer = _word_pieces(models.WordPiece(unk_token="[UNK]"))
        # The library numbers the pieces of one letter as a hash of random seed has them, and breaks
        # ties between merges by these numbers. What is special keeps the order that it is given in.
        alphabet, inner = _letters(tokenizer, text)
        pieces = [*alphabet, *(f"##{letter}" for letter in inner)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=special + pieces,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
    tokenizer.train_from_iterator(text, trainer)
    if kind == "wordpiece":
        tokenizer = _word_pieces(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
        tokenizer.add_special_tokens(special)
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise UserError(
            f"vocab_size: {vocab_size} is not possible with data={data_source}; give about {size}"
        )
    return tokenizer


def _word_pieces(model: models.WordPiece) -> Tokenizer:
    """BERT's uncased tokenizer around a model."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _letters(tokenizer: Tokenizer, text: list[str]) -> tuple[list[str], list[str]]:
    """The `PIECES` most frequent characters of a text, and those of them that go on with a word."""
    normalize, part = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
    counts: Counter[str] = Counter()
    pairs: set[tuple[str, str]] = set()
    for document in map(normalize, text):
        counts.update(document)
        pairs.update(itertools.pairwise(document))
    seen = [letter for letter in counts if part(letter)]  # no white space
    alphabet = {*sorted(seen, key=lambda letter: (-counts[letter], letter))[:PIECES]}
    joined = {letter for letter in seen if len(part(letter * 2)) == 1}  # no punctuation
    inner = {second for first, second in pairs if first in joined and second in joined}
    return sorted(alphabet), sorted(inner & alphabet)


def _ids(tokenizer: Tokenizer, documents: list[str], end: int) -> Iterator[int]:
    """The ids of all documents, each closed by `end`."""
    tokenizer.encode_special_tokens = True  # a sign in the text is text
    for i in range(0, len(documents), DOCUMENTS):
        chunk = documents[i : i + DOCUMENTS]
        for line in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            yield from line.ids
            yield end


def _read(folder: Path) -> Text | None:
    """The ids in a cache folder; None if a file is missing or not what was written."""
    meta = read_meta(folder)
    if meta is None:
        return None
    tokens = {
        split: np.load(folder / f"{split}.npy", mmap_mode="r", allow_pickle=False)
        for split in SPLITS
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Text(tokens, meta["fingerprint"], tokenizer)
