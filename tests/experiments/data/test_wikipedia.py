"""The Wikipedia sample: clean running text, the same as ever."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments.data import places, pretraining, text_source, wikipedia
from experiments.data.pretraining import Kind, load_text
from experiments.data.text import EOS, UNK, Corpus, load_corpus, tokenize
from experiments.errors import UserError


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what takes seconds to prepare."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def sample(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setenv("MUPKIT_CACHE", str(shared_cache))
    return load_corpus("wikipedia_sample", 2000)


def words(corpus: Corpus, split: str) -> list[str]:
    return [corpus.vocab[i] for i in corpus.tokens[split]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a well-known fact, isn't it?", "It 's a well @-@ known fact , isn 't it ?"),
        ("10,000 or 3.14 in the U.S. Army...", "10 @,@ 000 or 3 @.@ 14 in the U.S. Army ..."),
        ("== A (b) ==", "= = A ( b ) = ="),
        ("1990\u201391 \u2013 caf\u00e9", "1990 \u2013 91 \u2013 caf\u00e9"),
    ],
)
def test_tokenize(text: str, expected: str) -> None:
    assert tokenize(text) == expected.split()


def test_sample_is_clean_english(sample: Corpus) -> None:
    for split in text_source.SPLITS:
        text = " ".join(words(sample, split))
        for sign in ("[ [", "{ {", "} }", "< ref", "| |", "thumb |", "& nbsp", "' ' '"):
            assert sign not in text, (split, sign)
    common = [word for word, _ in Counter(words(sample, "train")).most_common(9)]
    assert {"the", ",", ".", "of", UNK} <= set(common)


def test_sample_splits(sample: Corpus) -> None:
    sizes = {split: len(ids) for split, ids in sample.tokens.items()}
    assert sizes["train"] > 400_000
    for split in ("validation", "test"):
        assert 0.04 < sizes[split] / sum(sizes.values()) < 0.06
    everything = words(sample, "train") + words(sample, "validation") + words(sample, "test")
    lines = " ".join(everything).split(EOS)
    titles = [line for line in lines if re.fullmatch(" = [^=].* = ", line)]
    assert len(titles) == 106 and "106" in text_source.TEXT_SOURCES["wikipedia_sample"]
    assert sample.vocab.count(UNK) == 1 and len(sample.vocab) == len(set(sample.vocab)) == 2000


def test_sample_has_no_rare_words(sample: Corpus) -> None:
    with pytest.raises(UserError, match=r"2 to [0-9]+"):
        load_corpus("wikipedia_sample", 33_278)
    folder = next(places.cache_dir().glob("wikipedia_sample-full-*/"))
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    whole = load_corpus("wikipedia_sample", size)
    assert np.bincount(whole.tokens["train"], minlength=size).min() >= 3
    assert whole.fingerprint == sample.fingerprint


def test_the_shipped_articles_give_the_ids_of_the_reference(sample: Corpus) -> None:
    assert hashlib.sha256(wikipedia.SAMPLE.read_bytes()).hexdigest() == wikipedia.SHA256
    # Whoever changes the one changes the other: prepared text of old rules stays in the cache.
    assert (text_source.RULES, sample.fingerprint) == ("1", "95dbcaf7fde70097")


@pytest.mark.parametrize(
    ("kind", "fingerprint"), [("bpe", "1d108e103aaa6b5d"), ("wordpiece", "a247a3ae11d6a5ca")]
)
def test_pretraining_has_the_same_ids_everywhere(
    shared_cache: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, fingerprint: str
) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(shared_cache))
    found = load_text("wikipedia_sample", 2000, kind).fingerprint
    # Whoever changes the one changes the other: prepared text of old rules stays in the cache.
    assert (pretraining.RULES, found) == ("2", fingerprint)


def test_the_notice_names_every_article_and_the_licence() -> None:
    notice = wikipedia.SAMPLE.with_name("wikipedia_sample.md").read_text(encoding="utf-8")
    titles = [lines[1].removeprefix("= ").removesuffix(" =") for lines in wikipedia.articles()]
    assert re.findall(r"^\| \[(.*?)\]\(https://en\.wikipedia", notice, re.MULTILINE) == titles
    assert "CC BY-SA 3.0" in notice


def test_damaged_articles_are_named_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sample.bz2"
    path.write_bytes(wikipedia.SAMPLE.read_bytes()[:1000])
    monkeypatch.setattr(wikipedia, "SAMPLE", path)
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=f"{path}: .*git -C {tmp_path} checkout sample.bz2"):
        load_corpus("wikipedia_sample", 100)
