"""Held-out text on which a language model is evaluated: pages, and passages with a last word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from experiments.data.pretraining import novels_of
from experiments.data.text_source import lines_of_parquet, wikitext2_files
from experiments.errors import UserError

T = TypeVar("T")
PAGE = 200  # words of a page, at least
PASSAGE, SENTENCES = 50, 5  # least number of words, and number of sentences, of a passage
LETTERS = 4  # of a last word, at least
SENTENCE = re.compile(r"(?<=[.!?])[\"'”’]*\s+")
# What WikiText's tokenization parted, beside hyphens, points and commas within numbers and words.
JOINED = (
    (re.compile(r" @([-.,])@ "), r"\1"),
    (re.compile(r" ([.,:;?!)\]'’%])"), r"\1"),
    (re.compile(r"([(\[$£]) "), r"\1"),
    (re.compile(r'" ([^"]*) "'), r'"\1"'),
)


@dataclass(frozen=True)
class Page:
    """A text.

    Attributes:
        text: as a reader sees it.
        words: how many words its perplexity is taken over.
    """

    text: str
    words: int


@dataclass(frozen=True)
class Passage:
    """Some sentences without their last word, and the word."""

    context: str
    word: str


def wikitext2_pages() -> list[Page]:
    """WikiText-2's test split in pages of whole lines; words are those of its own tokenization.

    Raises:
        UserError: `MUPKIT_DATA` is not set or lacks WikiText-2.
    """
    files = wikitext2_files()
    if files is None:
        raise UserError("MUPKIT_DATA: is not set; set it to the folder that holds wikitext")
    lines = lines_of_parquet({"test": files["test"]})["test"]
    return [Page(joined(text), len(text.split())) for text in _pages(lines)]


def joined(text: str) -> str:
    """Text of WikiText as it was before its words and signs were parted."""
    for parted, replacement in JOINED:
        text = parted.sub(replacement, text)
    return "\n".join(line.strip() for line in text.splitlines())


def novel_pages() -> list[Page]:
    """The test novels in pages of whole paragraphs."""
    texts = (text for novel in novels_of("test") for text in _pages(novel.splitlines()))
    return [Page(text, len(text.split())) for text in texts]


def _pages(lines: Iterable[str]) -> Iterator[str]:
    """Lines together, as few as make a page; a rest of fewer words is left out."""
    page: list[str] = []
    for line in lines:
        page += [line.rstrip("\n")] if line.strip() else []
        if sum(len(line.split()) for line in page) >= PAGE:
            yield "\n".join(page)
            page = []


def passages() -> list[Passage]:
    """Passages of the test novels, in the manner of LAMBADA.

    Every one has five sentences and at least 50 words, and its last word is in it before, so that a
    reader of the whole can guess it. LAMBADA's were guessed by people; these were chosen by rule.
    """
    return [found for novel in novels_of("test") for found in _passages(novel)]


def _passages(novel: str) -> Iterator[Passage]:
    sentences = [s for s in SENTENCE.split(" ".join(novel.split())) if s]
    for i in range(0, len(sentences) - SENTENCES + 1, SENTENCES):
        words = " ".join(sentences[i : i + SENTENCES]).split()
        last = re.sub(r"\W+$", "", words[-1])
        before = {re.sub(r"^\W+|\W+$", "", word).lower() for word in words[:-1]}
        plain = last.isalpha() and len(last) >= LETTERS
        if plain and len(words) >= PASSAGE and last.lower() in before:
            yield Passage(" ".join(words[:-1]), last)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of the items, evenly spread over all of them; all if there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
