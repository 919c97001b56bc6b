"""Sources of sentence pairs, their ids and the cache."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from experiments.data import places, translation, translation_source
from experiments.data.translation import EOS, SPECIALS, Sentences, Translation, load_translation
from experiments.data.translation_source import LANGUAGES, LAYOUT, SPLITS
from experiments.errors import UserError

PROJECT = Path(__file__).parents[3]
DATA = os.environ.get("MUPKIT_DATA")

SIZE = 280  # 4 special ids, 256 bytes and 20 merges
COUNTS = {"train": 60, "validation": 4, "test": 3}
STAND_INS = [("multi30k", "de"), ("tatoeba", "en")]
Rows = list[tuple[Any, Any]]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data but what a test asks for, an empty cache."""
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MUPKIT_DATA", raising=False)


def rows(split: str) -> Rows:
    """Pairs of random words."""
    draw = random.Random(split)
    words = {
        "de": ["ein", "Hund", "läuft", "über", "die", "grüne", "Wiese", "und", "spielt"],
        "en": ["a", "dog", "runs", "over", "the", "green", "meadow", "and", "plays"],
    }
    return [
        tuple(" ".join(draw.choices(words[x], k=draw.randint(2, 9))) + "." for x in LANGUAGES)
        for _ in range(COUNTS[split])
    ]


def write(path: Path, pairs: Rows, nested: bool = False, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = {x: pa.array([pair[i] for pair in pairs], pa.string()) for i, x in enumerate(LANGUAGES)}
    table = pa.table(sides)
    if nested:
        table = pa.table({"translation": table.to_struct_array()})
    pq.write_table(table, path, **more)
    return path


def write_tiny(root: Path, name: str = "multi30k", splits: Any = SPLITS) -> dict[str, Path]:
    """A few random pairs in the layout of a source; their files by split."""
    folder, files = root / LAYOUT[name], {}
    for split in splits:
        path = folder / f"{split}-00000-of-00001.parquet"
        pairs = lower(rows(split)) if name == "iwslt14" else rows(split)
        files[split] = write(path, pairs, nested=name == "wmt14")
    return files


def lower(pairs: Rows) -> Rows:
    """Pairs in lower case, as those of IWSLT14 are."""
    return [(de.lower(), en.lower()) for de, en in pairs]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as `MUPKIT_DATA`."""
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def tiny(root: Path) -> dict[str, Path]:
    """The files of a few pairs laid out like Multi30k, in `MUPKIT_DATA`."""
    return write_tiny(root)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For what takes seconds to prepare."""
    return tmp_path_factory.mktemp("shared")


def user_error(pattern: str) -> Any:
    """Expects a UserError of one line."""
    return pytest.raises(UserError, match=rf"\A[^\n]*{pattern}[^\n]*\Z")


def texts(data: Translation, sentences: Sentences) -> list[str]:
    return [data.decode(ids) for ids in sentences]


def facts(data: Translation) -> list[Any]:
    """All that is known of a corpus, in memory of its own."""
    return [
        data.fingerprint,
        data.sources,
        data.references,
        data.tokenizer.get_vocab(),
        *(
            array.tolist()
            for side in (data.source, data.target)
            for sentences in side.values()
            for array in (sentences.tokens, sentences.offsets)
        ),
    ]


# Choice of the source


def test_choosing_a_source_imports_nothing_heavy() -> None:
    code = (
        "import sys, experiments.data.translation_source;"
        "heavy = {'torch', 'numpy', 'pandas', 'pyarrow', 'tokenizers', 'sacremoses'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CHOICES = [
    (translation_source.choose_iwslt, "iwslt14", "multi30k"),
    (translation_source.choose_wmt, "wmt14", "tatoeba"),
]


@pytest.mark.parametrize(("choose", "real", "stand_in"), CHOICES)
def test_the_real_set_goes_before_its_stand_in(
    root: Path, choose: Any, real: str, stand_in: str
) -> None:
    write_tiny(root, stand_in)
    write_tiny(root, real, ("validation", "test"))
    assert choose() == stand_in and choose(real) == real
    write_tiny(root, real, ("train",))
    assert choose() == real and choose(stand_in) == stand_in


def write_tarball(root: Path) -> Path:
    folder = root / LAYOUT["iwslt14"] / "de-en"
    folder.mkdir(parents=True)
    for i, language in enumerate(LANGUAGES):
        train, *tests = translation_source.TARBALL[language]
        lines = "".join(f"{language} {en}\n" for _, en in rows("train"))
        (folder / train).write_text(lines, encoding="utf-8")
        for name in tests:
            text = f'<seg id="1"> {rows("test")[0][i]} </seg>\n'
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_folder_of_the_tarball_is_iwslt14(root: Path) -> None:
    write_tiny(root)
    write_tiny(root, "iwslt14", ("validation", "test"))
    folder = write_tarball(root)
    assert translation_source.choose_iwslt() == "iwslt14"
    data = load_translation("iwslt14", SIZE)
    assert len(data.target["test"]) == 5
    assert len(data.target["train"]) == 58 and len(data.target["validation"]) == 2
    assert texts(data, data.target["test"]) == [rows("test")[0][1].lower()] * 5
    (folder / "IWSLT14.TEDX.dev2012.de-en.en.xml").unlink()
    for function in (translation_source.choose_iwslt, lambda: load_translation("iwslt14", SIZE)):
        with user_error(f"MUPKIT_DATA: {folder}/IWSLT14.TEDX.dev2012.de-en.en.xml .*extract"):
            function()


@pytest.mark.parametrize(("choose", "real", "stand_in"), CHOICES)
def test_neither_names_both_folders(choose: Any, real: str, stand_in: str) -> None:
    with user_error(f"MUPKIT_DATA.*{LAYOUT[real]} or {LAYOUT[stand_in]} with train"):
        choose()


def test_unknown_source_lists_the_allowed() -> None:
    for choose, real, stand_in in CHOICES:
        with user_error(f"unknown data 'cifar10'.*{', '.join(sorted((real, stand_in)))}"):
            choose("cifar10")
    with user_error("unknown data 'wmt15'.*did you mean 'wmt14'"):
        load_translation("wmt15", SIZE)


def test_missing_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "nowhere"))
    for choose, *_ in CHOICES:
        with user_error(f"MUPKIT_DATA: {tmp_path}/nowhere does not exist"):
            choose()


@pytest.mark.parametrize("split", SPLITS)
def test_missing_files_are_named(tiny: dict[str, Path], split: str) -> None:
    tiny[split].unlink()
    folder = tiny[split].parent
    with user_error(f"MUPKIT_DATA: {folder} does not hold {split}-.*wants train, validation, test"):
        load_translation("multi30k", SIZE)
    with user_error("iwslt14_de_en or multi30k"):
        translation_source.choose_iwslt()


def test_iwslt14_without_train_says_what_would_do(root: Path) -> None:
    write_tiny(root, "iwslt14", ("validation", "test"))
    with user_error("iwslt14_de_en does not hold train-.*; data=iwslt14 wants .*the folder de-en"):
        load_translation("iwslt14", SIZE)


def test_unset_variable_is_named() -> None:
    with user_error("data=wmt14: MUPKIT_DATA is not set; .*wmt14/de-en"):
        load_translation("wmt14", SIZE)


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["train-00000-of-00003", "train-00002-of-00003"], "train-00001-of-00003.* is missing"),
        (["train-00000-of-00002"], "train-00001-of-00002.* is missing: found 1 .*the 2 of"),
        (["train-00000-of-00001", "train-00000-of-00002"], "train-00000-of-00001.* another series"),
        (["train-1"], "train-00000-of-00001.* is missing"),
    ],
)
def test_incomplete_series_is_named(root: Path, names: list[str], fault: str) -> None:
    write_tiny(root, "tatoeba")
    write_tiny(root, "wmt14", ("validation", "test"))
    for name in names:
        write(root / LAYOUT["wmt14"] / f"{name}.parquet", rows("train"), nested=True)
    for function in (translation_source.choose_wmt, lambda: load_translation("wmt14", SIZE)):
        with user_error(f"MUPKIT_DATA: {root}/wmt14/de-en/{fault}"):
            function()


def test_other_data_are_not_taken_for_multi30k_later(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = load_translation("multi30k", SIZE)
    monkeypatch.delenv("MUPKIT_DATA")
    with user_error("MUPKIT_DATA"):
        translation_source.choose_iwslt()
    # The same cache, had its counts been the published ones.
    monkeypatch.setitem(translation_source.COUNTS, "multi30k", COUNTS)
    assert translation_source.prepared("multi30k") is None  # the counts alone do not make it so
    monkeypatch.setitem(translation_source.DIGESTS, "multi30k", {})
    assert translation_source.choose_iwslt() == "multi30k"
    assert facts(load_translation("multi30k", SIZE)) == facts(here)
    load_translation("multi30k", SIZE - 1)  # another vocabulary needs the pairs alone


# Ids


@pytest.mark.parametrize(("name", "source"), STAND_INS)
def test_ids_of_a_few_pairs(
    name: str, source: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny(root, name)
    data = load_translation(name, SIZE)
    first = LANGUAGES.index(source)
    for split in SPLITS:
        expected = {side: [pair[side] for pair in rows(split)] for side in (first, 1 - first)}
        for sentences, side in ((data.source[split], first), (data.target[split], 1 - first)):
            assert texts(data, sentences) == expected[side]
            assert len(sentences) == COUNTS[split] and sentences.lengths.sum() == len(
                sentences.tokens
            )
            assert all(ids[-1] == EOS and (ids[:-1] >= len(SPECIALS)).all() for ids in sentences)
            assert sentences.tokens.dtype == np.int32 and sentences.tokens.max() < SIZE
        if split != "train":
            assert data.sources[split] == expected[first]
            assert data.references[split] == expected[1 - first]
    assert data.vocab_size == SIZE and data.data_source == name
    torch.from_numpy(data.source["train"][0])  # torch warns of memory that it may not write to
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == "" and [line.endswith("(once)") for line in lines].count(True) == 2
    other = [line for line in lines if line.startswith(f"data={name}: not the usual")]
    assert len(other) == len(lines) - 2 == (name in translation_source.COUNTS)
    load_translation(name, SIZE)
    assert capsys.readouterr().err == ""


def test_both_languages_share_a_vocabulary_that_begins_as_fairseqs(tiny: dict[str, Path]) -> None:
    data = load_translation("multi30k", SIZE + 44)
    vocab = [data.tokenizer.id_to_token(i) for i in range(data.vocab_size)]
    assert vocab[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert {"ĠHund", "Ġdog", "ĠgrÃ¼ne"} <= set(vocab)
    train = data.source["train"].tokens, data.target["train"].tokens
    assert all(vocab.index(word) in ids for word, ids in zip(("ĠHund", "Ġdog"), train, strict=True))


AWKWARD = [
    "Ein Straßenfest – „schön“, 3,5 % teurer…",
    "a </s> b <pad> <unk> <s>",
    "日本語 🙂🏽 \u0301x ẞ İ \x7f \x01 �",
    "it's we'll 10,000.50 ... (a) [b] <c> & \"d\" | ▁ Ġ @-@ ##x",
    "a \u200b b",
]


@pytest.mark.parametrize("name", ["multi30k", "tatoeba", "wmt14"])
def test_any_text_survives_ids(name: str, root: Path) -> None:
    files = write_tiny(root, name)
    write(files["validation"], [(text, text) for text in AWKWARD], nested=name == "wmt14")
    data = load_translation(name, SIZE)
    assert texts(data, data.target["validation"]) == AWKWARD == data.references["validation"]
    assert texts(data, data.source["validation"]) == AWKWARD == data.sources["validation"]
    assert all((ids[:-1] >= len(SPECIALS)).all() for ids in data.target["validation"])


def test_white_space_is_one_space(tiny: dict[str, Path]) -> None:
    write(tiny["test"], [("  a\tb\nc\u2028d\x85e\u00a0 f ", "x")])
    data = load_translation("multi30k", SIZE)
    assert data.sources["test"] == texts(data, data.source["test"]) == ["a b c d e f"]


def test_raw_text_is_not_taken_for_iwslt14(root: Path) -> None:
    files = write_tiny(root, "iwslt14")
    write(files["validation"], [("Ein Hund.", "A dog."), ("Noch einer.", "Another.")])
    with user_error("data=iwslt14: most pairs of validation have capital letters, .*raw text; cop"):
        load_translation("iwslt14", SIZE)
    assert not list(places.cache_dir().glob("*/meta.json"))


def test_iwslt14_is_decoded_to_running_text(root: Path) -> None:
    write_tiny(root, "iwslt14")
    word = "it &apos;s the dog &apos;s"
    train = [(f"{de} &quot;", f"{word} {en}") for de, en in lower(rows("train"))]
    write(root / LAYOUT["iwslt14"] / "train-00000-of-00001.parquet", train)
    write(
        root / LAYOUT["iwslt14"] / "test-00000-of-00001.parquet",
        [("er sagt , &quot; ja &quot; .", "he says , &quot; it &apos;s me &amp; you . &quot;")],
    )
    data = load_translation("iwslt14", SIZE)
    assert data.references["test"] == ['he says, "it\'s me & you."']
    assert texts(data, data.target["test"]) == data.references["test"]
    assert data.sources["test"] == ['er sagt, "ja".']
    # Merges cross what Moses escapes and never a space.
    vocab = data.tokenizer.get_vocab()
    assert "Ġ&apos;s" in vocab and not any("Ġ" in word[1:] for word in vocab)


def test_decoding_ends_at_the_end_and_leaves_special_ids_out(tiny: dict[str, Path]) -> None:
    data = load_translation("multi30k", SIZE)
    ids = data.target["test"][0].tolist()
    wanted = data.references["test"][0]
    assert data.decode([0, 1, 3, *ids[:-1], 1, EOS, *ids]) == wanted
    assert data.decode(torch.tensor([1, *ids, 1, 1])) == wanted
    assert data.decode(ids[:-1]) == wanted and data.decode([]) == data.decode([EOS]) == ""
    assert isinstance(data.decode(range(4, SIZE)), str)  # bytes that are no text


def test_the_vocabulary_is_learned_from_train_alone(tiny: dict[str, Path]) -> None:
    first = load_translation("multi30k", SIZE)
    for split in ("validation", "test"):
        write(tiny[split], [("qqq zzz " * 20, "qqq zzz " * 20)] * 50)
    other = load_translation("multi30k", SIZE)
    assert other.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert np.array_equal(other.source["train"].tokens, first.source["train"].tokens)
    write(tiny["train"], [*rows("train"), *[("qqq zzz " * 20, "qqq zzz " * 20)] * 50])
    assert load_translation("multi30k", SIZE).tokenizer.get_vocab() != first.tokenizer.get_vocab()


def test_impossible_vocabulary_names_what_is_possible(tiny: dict[str, Path]) -> None:
    with user_error("vocab_size: 259 .*260"):
        load_translation("multi30k", 259)
    assert load_translation("multi30k", 260).vocab_size == 260
    with pytest.raises(UserError, match=r"\Avocab_size: 9000 .*data=multi30k; give 260 to") as info:
        load_translation("multi30k", 9000)
    most = int(str(info.value).split()[-1])
    assert load_translation("multi30k", most).vocab_size == most
    with user_error(f"260 to {most}"):
        load_translation("multi30k", most + 1)


def test_fingerprint_is_of_the_text_and_the_vocabulary(tiny: dict[str, Path]) -> None:
    first = load_translation("multi30k", SIZE)
    assert re.fullmatch("[0-9a-f]{16}", first.fingerprint)
    assert load_translation("multi30k", SIZE + 1).fingerprint != first.fingerprint
    write(tiny["train"], rows("train"), compression="gzip")  # the same rows in other bytes
    assert facts(load_translation("multi30k", SIZE)) == facts(first)
    write(tiny["test"], [("ein Hund", "a dog")])
    changed = load_translation("multi30k", SIZE)
    assert changed.fingerprint != first.fingerprint
    assert changed.references["test"] == ["a dog"]


def test_ids_are_the_same_in_every_process(tiny: dict[str, Path], tmp_path: Path) -> None:
    code = (
        "from experiments.data.translation import load_translation as l;"
        f"print(l('multi30k', {SIZE}).fingerprint)"
    )
    found = {load_translation("multi30k", SIZE).fingerprint}
    for i in ("1", "2"):
        settings = {"RAYON_NUM_THREADS": i, "PYTHONHASHSEED": i, "MUPKIT_CACHE": str(tmp_path / i)}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=PROJECT,
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.strip())
    assert len(found) == 1


def test_both_layouts_of_columns_are_read(root: Path) -> None:
    path = write_tiny(root, "multi30k")["train"]
    flat = facts(load_translation("multi30k", SIZE))
    write(path, rows("train"), nested=True)
    assert facts(load_translation("multi30k", SIZE)) == flat


def test_wmt14_is_read_from_all_its_files_in_order(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_tiny(root, "wmt14")
    whole = load_translation("wmt14", SIZE)
    assert texts(whole, whole.source["test"]) == [en for _, en in rows("test")]
    files["train"].unlink()
    monkeypatch.setattr(translation, "ROWS", 7)
    for i, part in enumerate((slice(0, 13), slice(13, 40), slice(40, 60))):
        path = files["train"].with_name(f"train-{i:05d}-of-00003.parquet")
        write(path, rows("train")[part], nested=True)
    assert facts(load_translation("wmt14", SIZE)) == facts(whole)


# What can go wrong


BAD = [
    (None, "a", "no text in `de`"),
    ("a", None, "no text in `en`"),
    ("", "a", "no text in `de`"),
    ("a", " \u00a0\n", "no text in `en`"),
    ("a\0b", "a", "NUL byte in `de`"),
    ("a", "\0", "NUL byte in `en`"),
    ("a " * 251, "a", "251 words in `de`"),
    ("a", "b" * 1001, "a word of 1001 characters in `en`"),
]


@pytest.mark.parametrize(("de", "en", "fault"), BAD)
def test_bad_pairs_of_train_are_left_out_and_told(
    tiny: dict[str, Path], capsys: pytest.CaptureFixture[str], de: Any, en: Any, fault: str
) -> None:
    good = facts(load_translation("multi30k", SIZE))
    capsys.readouterr()
    pairs = rows("train")
    write(tiny["train"], [*pairs[:7], (de, en), *pairs[7:], (de, en)])
    assert facts(load_translation("multi30k", SIZE)) == good
    told = capsys.readouterr().err.splitlines()[1]
    assert told.startswith("2 of 62 training pairs are left out")
    assert f"{tiny['train']}, row 7 " in told and fault in told


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(("de", "en", "fault"), BAD)
def test_bad_pairs_of_validation_and_test_are_refused(
    tiny: dict[str, Path], split: str, de: Any, en: Any, fault: str
) -> None:
    pairs = rows(split)
    write(tiny[split], [*pairs[:2], (de, en), *pairs[2:]])
    with user_error(f"{tiny[split]}, row 2: .*{fault}"):
        load_translation("multi30k", SIZE)


def test_a_null_of_wmt14_is_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_tiny(root, "wmt14")
    good = facts(load_translation("wmt14", SIZE))
    values = [{"de": de, "en": en} for de, en in rows("train")]
    pq.write_table(pa.table({"translation": [values[0], None, *values[1:]]}), files["train"])
    assert facts(load_translation("wmt14", SIZE)) == good
    assert "1 of 61 training pairs are left out" in capsys.readouterr().err


def test_the_longest_that_is_allowed_is_kept(tiny: dict[str, Path]) -> None:
    longest = [("a " * 249 + "b" * 1000, "x")]
    write(tiny["test"], longest)
    data = load_translation("multi30k", SIZE)
    assert data.sources["test"] == [longest[0][0]] == texts(data, data.source["test"])


def test_a_split_without_pairs_is_refused(tiny: dict[str, Path]) -> None:
    write(tiny["train"], [(None, "a")])
    with user_error("data=multi30k: no pair in train"):
        load_translation("multi30k", SIZE)
    write(tiny["train"], rows("train"))
    write(tiny["test"], [])
    with user_error("data=multi30k: no pair in test"):
        load_translation("multi30k", SIZE)


@pytest.mark.parametrize(
    ("name", "columns", "found"),
    [
        ("multi30k", {"de": ["a"], "fr": ["b"]}, "found columns de, fr; wanted de, en"),
        ("wmt14", {"translation": [{"de": "a"}]}, "found columns translation.de; wanted"),
        ("wmt14", {"translation": ["a"]}, "found columns translation; wanted"),
        ("multi30k", {"de": [["a"]], "en": ["b"]}, "wanted de, en"),
        ("multi30k", {"de": [b"\xff"], "en": ["b"]}, "cannot be read .*copy the file again"),
        (
            "multi30k",
            {"de": pa.array([b"\xff"]).view(pa.string()), "en": ["b"]},
            "cannot be read .*copy the file again",
        ),
    ],
)
def test_other_columns_are_named(root: Path, name: str, columns: Any, found: str) -> None:
    path = write_tiny(root, name)["validation"]
    pq.write_table(pa.table(columns), path)
    with user_error(f"{path}: .*{found}"):
        load_translation(name, SIZE)


@pytest.mark.parametrize("split", SPLITS)
def test_truncated_parquet_is_named(tiny: dict[str, Path], split: str) -> None:
    tiny[split].write_bytes(tiny[split].read_bytes()[:-20])
    with user_error(f"{tiny[split]}: cannot be read as Parquet.*copy the file again"):
        load_translation("multi30k", SIZE)
    assert not list(places.cache_dir().glob("*/meta.json"))


def test_damage_inside_parquet_is_named(tiny: dict[str, Path]) -> None:
    content = bytearray(tiny["train"].read_bytes())
    content[4:40] = b"\xff" * 36
    tiny["train"].write_bytes(content)
    with user_error(f"{tiny['train']}: cannot be read"):
        load_translation("multi30k", SIZE)


def test_damaged_pairs_without_their_files(
    tiny: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_translation("multi30k", SIZE)
    monkeypatch.setitem(translation_source.COUNTS, "multi30k", COUNTS)
    assert translation_source.prepared("multi30k") is None  # the counts alone do not make it so
    monkeypatch.setitem(translation_source.DIGESTS, "multi30k", {})
    monkeypatch.delenv("MUPKIT_DATA")
    next(places.cache_dir().glob("*/test.en.txt")).write_text("other\n", encoding="utf-8")
    assert load_translation("multi30k", SIZE).vocab_size == SIZE
    with user_error("data=multi30k: MUPKIT_DATA is not set"):
        load_translation("multi30k", SIZE + 1)


def test_rest_of_a_killed_process_is_no_obstacle(tiny: dict[str, Path]) -> None:
    good = facts(load_translation("multi30k", SIZE))
    for folder in [*places.cache_dir().glob("*/")]:
        folder.rename(f"{folder}.new")
    assert facts(load_translation("multi30k", SIZE)) == good
    assert not list(places.cache_dir().glob("*.new"))


# The real sets


@pytest.fixture
def real(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(shared_cache))
    monkeypatch.setenv("MUPKIT_DATA", str(DATA))


@pytest.mark.data
def test_multi30k_itself(real: None) -> None:
    data = load_translation("multi30k", 4000)
    counts = {split: len(data.target[split]) for split in SPLITS}
    assert counts == translation_source.COUNTS["multi30k"]
    for split in ("validation", "test"):
        assert texts(data, data.target[split]) == data.references[split]
        assert texts(data, data.source[split]) == data.sources[split]
    for side in (data.source, data.target):
        for sentences in side.values():
            assert (sentences.tokens != SPECIALS.index("<unk>")).all()
    assert data.fingerprint == "7489a3df35d22a47"


@pytest.mark.data
def test_prepared_multi30k_needs_no_source(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_translation("multi30k", 4000)
    monkeypatch.delenv("MUPKIT_DATA")
    assert translation_source.choose_iwslt() == "multi30k"
    assert load_translation("multi30k", 4000).fingerprint == first.fingerprint
