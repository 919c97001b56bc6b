"""The preparation of IWSLT14. Expected tokens are what Moses' own scripts print."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.data.iwslt14 import detokenized, pairs_of_tarball, tokenized
from experiments.data.translation_source import TARBALL
from experiments.errors import UserError

MOSES = [
    (
        "en",
        "Mr. Smith's dog-house isn't 1,000.50 (i.e. \"big\") ... A|B [c] at 5 p.m.",
        "mr. smith &apos;s dog-house isn &apos;t 1,000.50 ( i.e. &quot; big &quot; ) ... "
        "a &#124; b &#91; c &#93; at 5 p.m .",
    ),
    ("en", "Plan B.", "plan b ."),
    (
        "en",
        "We're in the U.S. now, <em>really</em> & truly.",
        "we &apos;re in the u.s. now , &lt; em &gt; really &lt; / em &gt; &amp; truly .",
    ),
    (
        "de",
        "Das ist z.B. Nr. 5; Müllers' Hund – „gut“, 12 %...",
        "das ist z.b. nr. 5 ; müllers &apos; hund – „ gut “ , 12 % ...",
    ),
    ("en", "Wait... ", "wait ..."),
    ("en", "", ""),
]


@pytest.mark.parametrize(("language", "text", "tokens"), MOSES)
def test_tokens_are_those_of_moses(language: str, text: str, tokens: str) -> None:
    assert tokenized(text, language) == tokens


def test_running_text_of_tokens() -> None:
    text = "they said , &quot; it &apos;s 5 % &amp; ( more ) . &quot;"
    assert detokenized(text, "en") == 'they said, "it\'s 5% & (more)."'


def write(folder: Path, train: dict[str, str], segments: int = 1) -> dict[str, list[Path]]:
    """A tarball's folder with some training text."""
    folder.mkdir(exist_ok=True)
    for language, names in TARBALL.items():
        (folder / names[0]).write_bytes(train[language].encode())
        for name in names[1:]:
            lines = "".join(
                f'<seg id="{i}"> {language} {name[8:20]} isn’t &amp; </seg>\n'
                for i in range(segments)
            )
            (folder / name).write_text(f"<?xml?>\n<doc>\n<url>u</url>\n{lines}</doc>\n", "utf-8")
    return {language: [folder / n for n in names] for language, names in TARBALL.items()}


def numbered(count: int) -> dict[str, str]:
    return {
        language: "".join(f"{language} Satz {i}\n" for i in range(1, count + 1))
        for language in ("de", "en")
    }


def test_every_23rd_pair_is_for_validation(tmp_path: Path) -> None:
    splits = pairs_of_tarball(write(tmp_path, numbered(50)))
    assert splits["validation"] == [(f"de satz {i}", f"en satz {i}") for i in (23, 46)]
    assert splits["train"] == [
        (f"de satz {i}", f"en satz {i}") for i in range(1, 51) if i not in (23, 46)
    ]


def test_the_five_parts_of_the_test_set_are_in_order(tmp_path: Path) -> None:
    test = pairs_of_tarball(write(tmp_path, numbered(1), segments=2))["test"]
    parts = ["ted.dev2010", "tedx.dev2012", "ted.tst2010", "ted.tst2011", "ted.tst2012"]
    assert [de.split()[1][:11] for de, _ in test[::2]] == [part[:11] for part in parts]
    assert test[0] == test[1]
    # Entities of the XML are text to the script, which Moses then escapes.
    assert test[0][1].endswith("isn &apos;t &amp; amp ;")


def test_lines_that_are_no_sentences_are_left_out(tmp_path: Path) -> None:
    train = {
        language: f"<url>{language}</url>\n<keywords>a</keywords>\n<talkid>1</talkid>\n"
        f"<title>{language} Title</title>\n<description>About it.</description>\n Text \n"
        for language in ("de", "en")
    }
    splits = pairs_of_tarball(write(tmp_path, train))
    assert splits["train"] == [
        ("de title", "en title"),
        ("about it .", "about it ."),
        ("text", "text"),
    ]


def test_other_separators_do_not_end_a_line(tmp_path: Path) -> None:
    train = {"de": "a\u2028b\x85c\x0b d\r\ne\n", "en": "a b c d\ne\n"}
    assert pairs_of_tarball(write(tmp_path, train))["train"] == [("a b c d", "a b c d"), ("e", "e")]


@pytest.mark.parametrize(
    ("de", "en", "kept"),
    [
        ("a b", "a b c", True),  # ratio 1.5
        ("a b", "a b c d", False),
        ("a b c d", "a b", False),
        ("", "a", False),
        ("a", "  ", False),
        ("a " * 175, "b " * 175, True),
        ("a " * 176, "b " * 175, False),
        ("a " * 175, "b " * 176, False),
        ("a" * 1000, "b", True),
        ("a", "b" * 1001, False),
    ],
)
def test_what_is_kept_of_the_training_text(tmp_path: Path, de: str, en: str, kept: bool) -> None:
    splits = pairs_of_tarball(write(tmp_path, {"de": f"{de}\nx\n", "en": f"{en}\nx\n"}))
    assert len(splits["train"]) == 1 + kept


def test_languages_of_different_length_are_named(tmp_path: Path) -> None:
    files = write(tmp_path, {"de": "a\nb\n", "en": "a\n"})
    with pytest.raises(UserError, match=rf"\A{files['en'][0]}: found 1 .*wanted 2 .*again\Z"):
        pairs_of_tarball(files)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    files = write(tmp_path, numbered(1))
    files["de"][2].write_bytes(b'<seg id="1">\xff</seg>\n')
    with pytest.raises(UserError, match=rf"\A{files['de'][2]}: cannot be read as UTF-8.*\Z"):
        pairs_of_tarball(files)
