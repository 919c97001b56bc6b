"""DataSources of text, tokens and their cache."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.data import places, text_source
from experiments.data.text import EOS, UNK, Corpus, load_corpus
from experiments.errors import UserError
from tests.data_series import write_split

PROJECT = Path(__file__).parents[3]
WIKITEXT2 = os.environ.get("MUPKIT_DATA")

TINY = {
    "train": ["", " = b = \n", "a a c b <unk>", "d c d"],
    "validation": ["a e", ""],
    "test": ["f"],
}


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what a test asks for, no network, an empty cache."""
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MUPKIT_DATA", raising=False)
    places.hub_reachable.cache_clear()


def write_tiny(root: Path, lines: dict[str, list[str]] = TINY, column: str = "text") -> Path:
    folder = root / "wikitext" / "wikitext-2-v1"
    for split, text in lines.items():
        write_split(folder, split, {column: text})
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the Parquet files of a tiny corpus, in `MUPKIT_DATA`."""
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    return write_tiny(tmp_path / "data")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what takes seconds to prepare."""
    return tmp_path_factory.mktemp("shared")


def words(corpus: Corpus, split: str) -> list[str]:
    return [corpus.vocab[i] for i in corpus.tokens[split]]


def user_error(pattern: str) -> Any:
    """Expects a UserError of one line."""
    return pytest.raises(UserError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


# Choice of the source


def test_source_imports_nothing_heavy() -> None:
    code = (
        "import sys, experiments.data.text_source;"
        "print(sorted({'torch', 'numpy', 'pandas', 'pyarrow', 'datasets'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_requested_source_wins(tiny: Path) -> None:
    assert text_source.choose_text("wikipedia_sample") == "wikipedia_sample"
    assert text_source.choose_text("wikitext2") == "wikitext2"
    assert text_source.choose_text() == "wikitext2"


def test_offline_without_data_is_the_sample() -> None:
    assert text_source.choose_text() == "wikipedia_sample"
    assert text_source.choose_text("wikitext2") == "wikitext2"


def test_hub_is_used_if_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError("no route")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert text_source.choose_text() == "wikipedia_sample"
    places.hub_reachable.cache_clear()
    answer = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **more: answer)
    assert text_source.choose_text() == "wikitext2"


def test_what_the_library_keeps_is_taken_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    kept = tmp_path / "Salesforce___wikitext/wikitext-2-v1/0.0.0/b08601"
    kept.mkdir(parents=True)
    assert text_source.choose_text() == "wikipedia_sample"
    (kept / "dataset_info.json").write_text("{}")
    assert text_source.choose_text() == "wikitext2"
    (kept.parents[1]).rename(tmp_path / "Salesforce___wikitext/wikitext-2-raw-v1")
    assert text_source.choose_text() == "wikipedia_sample"


@pytest.mark.parametrize("name", places.OFFLINE)
def test_the_hub_is_not_asked_offline(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(socket, "create_connection", lambda *args, **more: answer)
    for other in places.OFFLINE:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "1")
    assert not places.hub_reachable()


def test_unknown_source_lists_the_allowed() -> None:
    for function in (text_source.choose_text, lambda s: load_corpus(s, 100)):
        with user_error("wikipedia_sample, wikitext2"):
            function("wikitext3")


def test_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for given, fault in (
        (f"{tmp_path}/nowhere", "does not exist"),
        (f"{tmp_path}/file", "is not a folder"),
        ("~nosuch/data", "does not exist"),
        ("x" * 5000, "does not exist"),
    ):
        monkeypatch.setenv("MUPKIT_DATA", given)
        with user_error(f"MUPKIT_DATA: {given} {fault}; .*wikipedia_sample"):
            text_source.choose_text()


def test_a_cache_that_is_no_folder_is_named(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for given, fault in (
        (f"{tmp_path}/file", f"cannot write .*: {tmp_path}/file is a file; set it to a folder"),
        (f"{tmp_path}/file/x", f"cannot write .*: {tmp_path}/file is a file; set it to a folder"),
        ("~nosuch/x", "there is no such user"),
        (f"{tmp_path}/{'x' * 300}", "cannot write .*File name too long"),
    ):
        monkeypatch.setenv("MUPKIT_CACHE", given)
        with user_error(f"MUPKIT_CACHE: .*{fault}"):
            load_corpus("wikitext2", 4)


@pytest.mark.parametrize("split", text_source.SPLITS)
def test_missing_file_is_named(tiny: Path, split: str) -> None:
    (tiny / f"{split}-00000-of-00001.parquet").unlink()
    for function in (text_source.choose_text, lambda: load_corpus("wikitext2", 4)):
        with user_error(f"MUPKIT_DATA: {tiny} does not hold {split}-0000I.* or {split}/000I.parq"):
            function()


@pytest.mark.parametrize("names", ["train-{:05d}-of-00002.parquet", "train/{:04d}.parquet"])
def test_a_series_of_files_is_one_text(tiny: Path, names: str) -> None:
    whole = load_corpus("wikitext2", 9)
    one = tiny / "train-00000-of-00001.parquet"
    lines = pq.read_table(one)
    for i in range(2):
        path = tiny / names.format(i)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(lines.slice(2 * i, 2), path)
    with user_error(f"MUPKIT_DATA: {tiny}/train.* is of another series"):
        text_source.choose_text()
    one.unlink()
    assert text_source.choose_text() == "wikitext2"
    found = load_corpus("wikitext2", 9)
    assert found.fingerprint == whole.fingerprint
    assert words(found, "train") == words(whole, "train")
    (tiny / names.format(0)).unlink()
    with user_error(f"MUPKIT_DATA: {tiny / names.format(0)} is missing: found 1 files of train"):
        load_corpus("wikitext2", 9)


def test_other_data_is_not_taken_for_wikitext2_later(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_corpus("wikitext2", 4)
    monkeypatch.delenv("MUPKIT_DATA")
    assert text_source.choose_text() == "wikipedia_sample"
    # The same cache, had its counts and its words been the published ones.
    counts = {"train": 15, "validation": 4, "test": 2}
    monkeypatch.setattr(text_source, "PUBLISHED", counts)
    assert text_source.choose_text() == "wikipedia_sample"
    (meta,) = places.cache_dir().glob("wikitext2-full-*/meta.json")
    digest = json.loads(meta.read_text(encoding="utf-8"))["sha256"]["vocab.json"]
    monkeypatch.setattr(text_source, "VOCABULARY", digest)
    assert text_source.choose_text() == "wikitext2"
    assert len(load_corpus("wikitext2", 4).vocab) == 4


def test_the_published_words_are_prepared_without_a_warning(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The files have the published counts, another vocabulary: the digests alone tell.
    counts = {"train": 15, "validation": 4, "test": 2}
    monkeypatch.setattr(text_source, "PUBLISHED", counts)
    load_corpus("wikitext2", 9)
    assert f"{tiny}: not the published WikiText-2" in capsys.readouterr().err
    (meta,) = places.cache_dir().glob("wikitext2-full-*/meta.json")
    digest = json.loads(meta.read_text(encoding="utf-8"))["sha256"]["vocab.json"]
    monkeypatch.setattr(text_source, "VOCABULARY", digest)
    shutil.rmtree(places.cache_dir())
    load_corpus("wikitext2", 9)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"from {tiny} (once)" in line


# Tokens


def test_tokens_of_a_tiny_corpus(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = load_corpus("wikitext2", 9)
    assert corpus.vocab == [EOS, "=", "b", "a", "c", UNK, "d", "e", "f"]
    train = [EOS, "=", "b", "=", EOS, "a", "a", "c", "b", UNK, EOS, "d", "c", "d", EOS]
    assert words(corpus, "train") == train
    assert words(corpus, "validation") == ["a", "e", EOS, EOS]
    assert words(corpus, "test") == ["f", EOS]
    assert corpus.data_source == "wikitext2"
    for ids in corpus.tokens.values():
        assert isinstance(ids, np.memmap) and ids.dtype == np.int32 and not ids.flags.writeable
    captured = capsys.readouterr()
    first, second = captured.err.splitlines()
    assert captured.out == "" and f"from {tiny} (once)" in first
    assert f"{tiny}: not the published WikiText-2" in second
    load_corpus("wikitext2", 9)
    assert capsys.readouterr().err == ""


def test_cut_keeps_the_most_frequent_words(tiny: Path) -> None:
    # Of train: <eos> 4; =, b, a, c, d 2 each, in this order; <unk> is kept at any count.
    corpus = load_corpus("wikitext2", 5)
    assert corpus.vocab == [EOS, "=", "b", "a", UNK]
    assert words(corpus, "train")[5:] == ["a", "a", UNK, "b", UNK, EOS, UNK, UNK, UNK, EOS]
    assert words(corpus, "validation") == ["a", UNK, EOS, EOS]
    assert load_corpus("wikitext2", 2).vocab == [EOS, UNK]


def test_cut_breaks_ties_by_first_occurrence(tmp_path: Path, tiny: Path) -> None:
    many = [*(f"w{i}" for i in range(500)), UNK]
    write_tiny(tmp_path / "data", {**TINY, "train": [" ".join(many)]})
    assert load_corpus("wikitext2", 300).vocab == [*many[:299], UNK]


def test_raw_text_is_refused(tmp_path: Path, tiny: Path) -> None:
    raw = [line.replace(UNK, "rare") for line in TINY["train"]]
    write_tiny(tmp_path / "data", {**TINY, "train": raw})
    with user_error(f"{tiny}: no {UNK} in train, so it is raw text; copy wikitext-2-v1"):
        load_corpus("wikitext2", 4)
    assert not list(places.cache_dir().glob("*/meta.json"))


@pytest.mark.parametrize("split", text_source.SPLITS)
def test_a_split_without_words_is_named(tmp_path: Path, tiny: Path, split: str) -> None:
    write_tiny(tmp_path / "data", {**TINY, split: ["", " "]})
    with user_error(f"{tiny}: no words in {split}"):
        load_corpus("wikitext2", 4)


@pytest.mark.parametrize("vocab_size", [10, 1])
def test_impossible_vocabulary_names_the_largest(tiny: Path, vocab_size: int) -> None:
    with user_error(f"vocab_size: {vocab_size} .*2 to 9"):
        load_corpus("wikitext2", vocab_size)


def test_fingerprint_is_of_the_words(tmp_path: Path, tiny: Path) -> None:
    first = load_corpus("wikitext2", 9).fingerprint
    assert re.fullmatch("[0-9a-f]{16}", first)
    assert load_corpus("wikitext2", 4).fingerprint == first
    for split, text in TINY.items():  # the same rows in other bytes
        path = tiny / f"{split}-00000-of-00001.parquet"
        pq.write_table(pa.table({"text": text}), path, compression="zstd")
    assert load_corpus("wikitext2", 9).fingerprint == first
    write_tiny(tmp_path / "data", {**TINY, "test": ["f a"]})
    changed = load_corpus("wikitext2", 9)
    assert changed.fingerprint != first
    assert words(changed, "test") == ["f", "a", EOS]


# What can go wrong


def test_truncated_parquet_is_named(tiny: Path) -> None:
    path = tiny / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with user_error(f"{path}.*copy the file again"):
        load_corpus("wikitext2", 4)
    assert not list(places.cache_dir().glob("*/meta.json"))


def test_parquet_without_text_is_named(tmp_path: Path, tiny: Path) -> None:
    write_tiny(tmp_path / "data", column="line")
    with user_error(f"{tiny}/train.*found columns line; wanted text"):
        load_corpus("wikitext2", 4)
    numbers = pa.table({"text": [1.5, 2.5]})
    pq.write_table(numbers, tiny / "train-00000-of-00001.parquet")
    with user_error(f"{tiny}/train.*found double in the column `text`; wanted text"):
        load_corpus("wikitext2", 4)


def test_cache_that_cannot_be_written(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "file"))
    with user_error(f"MUPKIT_CACHE.*{tmp_path}/file"):
        load_corpus("wikitext2", 4)


def test_rest_of_a_killed_process_is_no_obstacle(tiny: Path) -> None:
    load_corpus("wikitext2", 9)
    folder = next(places.cache_dir().glob("wikitext2-full-*/"))
    folder.rename(f"{folder}.new")
    (Path(f"{folder}.new") / "train.npy").unlink()
    assert len(load_corpus("wikitext2", 9).vocab) == 9
    assert not Path(f"{folder}.new").exists()


def test_two_processes_at_once(tmp_path: Path, tiny: Path) -> None:
    rng = np.random.default_rng(0)
    text = [" ".join(map(str, row)) for row in rng.integers(0, 500, (2000, 50))] + [UNK]
    write_tiny(tmp_path / "data", {split: text for split in text_source.SPLITS})
    code = (
        "from experiments.data.text import load_corpus; print(); input();"
        "c = load_corpus('wikitext2', 100);"
        "print(c.fingerprint, *(int(t.sum()) for t in c.tokens.values()))"
    )
    command = [sys.executable, "-uc", code]
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both: list[Any] = [subprocess.Popen(command, cwd=PROJECT, text=True, **pipes) for _ in range(2)]
    for process in both:
        process.stdout.readline()  # its imports are done
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    (out, err), (other_out, other_err) = (process.communicate(timeout=60) for process in both)
    assert [process.returncode for process in both] == [0, 0], err + other_err
    assert out == other_out and out.count(" ") == 3
    assert (err + other_err).count("preparing") == 1
    assert not list(places.cache_dir().glob("*.new"))


# The Hub, in place of which stands a stub


def test_hub_gives_the_same_tokens(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = load_corpus("wikitext2", 9)
    monkeypatch.delenv("MUPKIT_DATA")
    data = {split: {"text": lines} for split, lines in TINY.items()}
    stub = SimpleNamespace(load_dataset=lambda path, name: data)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    assert load_corpus("wikitext2", 9).fingerprint == local.fingerprint


def test_hub_failure_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str, name: str) -> None:
        raise ConnectionError("several\nlines")

    stub = SimpleNamespace(load_dataset=fail)
    monkeypatch.setitem(sys.modules, "datasets", stub)
    with user_error("MUPKIT_DATA.*data=wikipedia_sample"):
        load_corpus("wikitext2", 9)


# WikiText-2 itself


@pytest.fixture
def wikitext2(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    monkeypatch.setenv("MUPKIT_CACHE", str(shared_cache))
    monkeypatch.setenv("MUPKIT_DATA", str(WIKITEXT2))
    return load_corpus("wikitext2", 33_278)


@pytest.mark.data
def test_published_counts(wikitext2: Corpus) -> None:
    counts = {split: len(ids) for split, ids in wikitext2.tokens.items()}
    assert counts == {"train": 2_088_628, "validation": 217_646, "test": 245_569}
    assert len(wikitext2.vocab) == len(set(wikitext2.vocab)) == 33_278
    # The first words of the dictionary that microsoft/mup ships.
    assert wikitext2.vocab[:5] == [EOS, "=", "Valkyria", "Chronicles", "III"]
    for ids in wikitext2.tokens.values():
        assert ids.min() == 0 and ids.max() < 33_278


@pytest.mark.data
def test_wikitext2_cut(wikitext2: Corpus) -> None:
    cut = load_corpus("wikitext2", 2000)
    kept = set(cut.vocab)
    counts = Counter(words(wikitext2, "train"))
    assert kept == {word for word, _ in counts.most_common(2000)}
    expected = [word if word in kept else UNK for word in words(wikitext2, "test")]
    assert words(cut, "test") == expected
    with user_error("vocab_size.*33278"):
        load_corpus("wikitext2", 33_279)


@pytest.mark.data
def test_prepared_wikitext2_needs_no_source(
    wikitext2: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MUPKIT_DATA")
    assert text_source.choose_text() == "wikitext2"
    assert load_corpus("wikitext2", 500).fingerprint == wikitext2.fingerprint
