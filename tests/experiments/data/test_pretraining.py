"""Running text for pretraining: documents, ids, what is refused, and what is told."""

import pytest

from experiments.data.pretraining import END, RULES, SPECIALS, load_text
from experiments.data.pretraining_source import choose_pretraining
from experiments.declare import registry
from experiments.errors import UserError
from experiments.products import tidy_tables
from tests.data_series import write_split

SPLITS = ("train", "validation", "test")
ARTICLE = "The cat sat on the mat.\nIt was a cat, and the mat was a mat. "


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Articles and novels, as `MUPKIT_DATA`, with a cache of their own."""
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path / "cache"))
    for split in SPLITS:
        articles = {"text": [ARTICLE * 3, "One more."]}
        write_split(tmp_path / "data" / "wikipedia_en_sample", split, articles)
        paragraphs = ["Chapter 1.", "It was dark.", "Another novel."]
        novels = {"text": paragraphs, "doc": ["a", "a", "b"]}
        write_split(tmp_path / "data" / "english_novels", split, novels)
    return tmp_path / "data"


def documents(text, kind, split):
    """The text of each document of a split."""
    end = text.tokenizer.token_to_id(END[kind])
    found, own = [], []
    for i in text.tokens[split].tolist():
        if i == end:
            found.append(text.tokenizer.decode(own))
            own = []
        else:
            own.append(i)
    assert not own
    return found


def test_documents_are_articles_and_whole_novels(folder) -> None:
    text = load_text("wikipedia_novels", 264, "bpe")
    expected = [ARTICLE * 3, "One more.", "Chapter 1.\nIt was dark.", "Another novel."]
    assert documents(text, "bpe", "validation") == expected
    assert text.tokens["train"].max() < 264
    assert text.tokenizer.get_vocab_size() == 264
    # Whoever changes the one changes the other: prepared text of old rules stays in the cache.
    assert (RULES, text.fingerprint) == ("2", "9ec1112eff182e82")


def test_word_pieces_are_lower_case_and_have_berts_signs(folder) -> None:
    text = load_text("wikipedia_novels", 46, "wordpiece")
    assert [text.tokenizer.id_to_token(i) for i in range(5)] == list(SPECIALS["wordpiece"])
    assert documents(text, "wordpiece", "test")[1:3] == ["one more.", "chapter 1. it was dark."]


def test_a_sign_in_the_text_is_text(folder) -> None:
    write_split(folder / "wikipedia_en_sample", "test", {"text": ["a <|endoftext|> b"]})
    text = load_text("wikipedia_novels", 264, "bpe")
    assert documents(text, "bpe", "test")[0] == "a <|endoftext|> b"


def test_the_cache_is_of_these_files(folder) -> None:
    first = load_text("wikipedia_novels", 264, "bpe")
    write_split(folder / "wikipedia_en_sample", "train", {"text": [ARTICLE]})
    assert load_text("wikipedia_novels", 264, "bpe").fingerprint != first.fingerprint


@pytest.mark.parametrize(("bad", "fault"), [(None, "no text"), (" ", "no text"), ("a\0b", "a NUL")])
def test_bad_documents_are_told_in_train_and_refused_elsewhere(folder, bad, fault, capsys) -> None:
    write_split(folder / "wikipedia_en_sample", "train", {"text": [ARTICLE * 3, bad, bad]})
    load_text("wikipedia_novels", 264, "bpe")
    said = capsys.readouterr().err
    assert "2 training documents are left out; first" in said
    assert f"row 1 ({fault}" in said
    write_split(folder / "wikipedia_en_sample", "validation", {"text": [ARTICLE, bad]})
    with pytest.raises(UserError, match=f"validation.*row 1: {fault}.*copy the file again"):
        load_text("wikipedia_novels", 264, "bpe")


def test_files_that_cannot_be_read_are_named(folder) -> None:
    path = folder / "english_novels" / "train-00000-of-00001.parquet"
    write_split(folder / "english_novels", "train", {"text": ["a"]})
    with pytest.raises(UserError, match="found columns text; wanted text, doc"):
        load_text("wikipedia_novels", 264, "bpe")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=f"{path.name}: cannot be read as Parquet"):
        load_text("wikipedia_novels", 264, "bpe")
    path.unlink()
    with pytest.raises(UserError, match=f"{path.parent} does not hold train-0000I"):
        choose_pretraining()


def test_an_impossible_vocabulary_is_refused(folder) -> None:
    with pytest.raises(UserError, match="vocab_size: 100 is too small; give 257 or more"):
        load_text("wikipedia_novels", 100, "bpe")
    with pytest.raises(UserError, match="5000 is not possible with data=wikipedia_novels"):
        load_text("wikipedia_novels", 5000, "bpe")


def test_the_source_is_what_can_be_had(folder, monkeypatch) -> None:
    assert choose_pretraining() == "wikipedia_novels"
    assert choose_pretraining("wikipedia_sample") == "wikipedia_sample"
    monkeypatch.delenv("MUPKIT_DATA")
    assert choose_pretraining() == "wikipedia_sample"
    with pytest.raises(UserError, match="set MUPKIT_DATA to the folder that holds wikipedia_en"):
        choose_pretraining("wikipedia_novels")
    with pytest.raises(UserError, match="novels"):
        choose_pretraining("novels")


@pytest.mark.data
def test_real_text(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MUPKIT_CACHE", str(tmp_path))
    text = load_text("wikipedia_novels", 2000, "bpe")
    assert len(text.tokens["train"]) > 2e7
    trained = tidy_tables.read_table(registry.product("fig8"), "reference", "provenance")
    assert {*trained["data_fingerprint"]} == {text.fingerprint}
