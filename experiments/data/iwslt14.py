"""IWSLT14 De-En as fairseq's `prepare-iwslt14.sh` makes it of the tarball, and as running text.

Its sentences are tokenized by Moses' rules, with `&apos;` and the like for what Moses escapes, and
lower-cased.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.errors import UserError

Pair = tuple[str, str]  # German, English

LEFT_OUT = ("<url>", "<talkid>", "<keywords>")  # lines of the training text
TITLE = re.compile("</?(?:title|description)>")
SEGMENT = re.compile(r'<seg id="[0-9]*">\s*|\s*</seg>\s*')
# Moses parts the last word from its full stop even after an abbreviation. sacremoses does not.
LAST_STOP = re.compile(r"(?<=[^\s.])\.$")
MOST_WORDS, LONGEST_WORD, RATIO = 175, 1000, 1.5  # of Moses' clean-corpus-n, as the script calls it
EVERY = 23  # of so many training pairs one is for validation


def pairs_of_tarball(files: Mapping[str, list[Path]]) -> dict[str, list[Pair]]:
    """Pairs by split.

    Args:
        files: by language, the training text and then the parts of the test set.

    Raises:
        UserError: a file cannot be read, or the two languages differ in their lines.
    """
    de, en = files["de"], files["en"]
    kept = [pair for pair in _aligned(de[0], en[0], _training_lines) if _clean(pair)]
    return {
        "train": [pair for i, pair in enumerate(kept, 1) if i % EVERY],
        "validation": kept[EVERY - 1 :: EVERY],
        "test": [
            pair for two in zip(de[1:], en[1:], strict=True) for pair in _aligned(*two, _segments)
        ],
    }


def _aligned(de: Path, en: Path, lines_of: Callable[[str], list[str]]) -> list[Pair]:
    """Tokenized pairs of two files."""
    sides = []
    for path, language in ((de, "de"), (en, "en")):
        try:
            # Not splitlines(): talks contain other separators, which do not end a line.
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: cannot be read as UTF-8 ({error}); extract de-en.tgz again"
            ) from error
        sides.append([tokenized(line, language) for line in lines_of(text)])
    if len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{en}: found {len(sides[1])} lines of text, wanted {len(sides[0])} as in {de.name}; "
            "extract de-en.tgz again"
        )
    return list(zip(*sides, strict=True))


def _training_lines(text: str) -> list[str]:
    lines = text.removesuffix("\n").split("\n")
    return [TITLE.sub("", line) for line in lines if not any(tag in line for tag in LEFT_OUT)]


def _segments(text: str) -> list[str]:
    lines = [line for line in text.split("\n") if "<seg id" in line]
    return [SEGMENT.sub("", line).replace("’", "'") for line in lines]


def _clean(pair: Pair) -> bool:
    """Whether Moses' clean-corpus-n keeps a pair."""
    words = [side.split() for side in pair]
    few, many = sorted(map(len, words))
    return (
        few > 0
        and many <= MOST_WORDS
        and many / few <= RATIO
        and all(len(word) <= LONGEST_WORD for side in words for word in side)
    )


def tokenized(text: str, language: str) -> str:
    """Moses' tokens of a line, lower-cased, with single spaces between."""
    from sacremoses import MosesTokenizer

    tokenizer = _by_language(MosesTokenizer, language)
    tokens: str = tokenizer.tokenize(text, return_str=True)
    return LAST_STOP.sub(" .", tokens).lower()


def detokenized(text: str, language: str) -> str:
    """Running text of tokens, in lower case, for scores."""
    from sacremoses import MosesDetokenizer

    return str(_by_language(MosesDetokenizer, language).detokenize(text.split()))


@functools.cache
def _by_language(kind: Callable[[str], Any], language: str) -> Any:
    return kind(language)
