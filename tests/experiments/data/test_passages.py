"""Pages and passages: nothing of the text is changed, and a last word can be known from before."""

import pytest

from experiments.data import passages
from experiments.errors import UserError
from tests.data_series import write_split


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MUPKIT_DATA", str(tmp_path))
    return tmp_path


def write_novels(folder, *paragraphs) -> None:
    for name in ("wikipedia_en_sample", "english_novels"):
        for split in ("train", "validation", "test"):
            columns = {"text": [*paragraphs], "doc": ["a"] * len(paragraphs)}
            write_split(folder / name, split, columns)


def test_wikitext_is_joined_as_it_was() -> None:
    parted = (
        ' = Valkyria = \n It was 3 @.@ 5 , and " well @-@ known " ( 1 @,@ 000 ) ; so it was . \n'
    )
    assert passages.joined(parted) == (
        '= Valkyria =\nIt was 3.5, and "well-known" (1,000); so it was.'
    )


def test_words_of_wikitext_are_its_own(folder) -> None:
    lines = [" = Title = \n", "", " a , b . \n" * 1, *[" c , d . \n"] * 60]
    for split in ("train", "validation", "test"):
        write_split(folder / "wikitext/wikitext-2-v1", split, {"text": lines})
    (page,) = passages.wikitext2_pages()  # the rest is less than a page
    assert page.text.startswith("= Title =\na, b.\nc, d.\n")
    assert page.words == 3 + 4 * 50  # parted signs are words, and the 200th is in the 50th line


def test_without_a_folder_the_error_says_what_is_wanted(monkeypatch) -> None:
    monkeypatch.delenv("MUPKIT_DATA", raising=False)
    for read in (passages.wikitext2_pages, passages.novel_pages, passages.passages):
        with pytest.raises(UserError, match="MUPKIT_DATA: is not set; set"):
            read()


def test_pages_of_novels_are_whole_paragraphs(folder) -> None:
    write_novels(folder, "one " * 150, "two " * 60, "three " * 199, "four " * 5)
    found = passages.novel_pages()
    assert [page.words for page in found] == [210, 204]
    assert found[0].text == f"{'one ' * 150}\n{'two ' * 60}"


def sentences(last: str) -> str:
    return (
        f"{'The ship left the harbour and we saw it no more. ' * 5}Still we waited for the {last}"
    )


@pytest.mark.parametrize("last", ["ship.", "ship!", 'Ship."'])
def test_a_last_word_is_without_its_signs(folder, last) -> None:
    write_novels(folder, *[sentences(last).split(". ", 1)[1]])
    (found,) = passages.passages()
    assert found.word.lower() == "ship"
    assert found.context.endswith("for the") or found.context.endswith("for the ")


@pytest.mark.parametrize("last", ["boat.", "it.", "1899.", '"Ship."'])
def test_other_passages_are_left_out(folder, last) -> None:
    write_novels(folder, sentences(last).split(". ", 1)[1])
    assert passages.passages() == []


def test_items_are_spread_evenly() -> None:
    assert passages.spread(range(10), 4) == [0, 2, 5, 7]
    assert passages.spread([1, 2], 4) == [1, 2]
