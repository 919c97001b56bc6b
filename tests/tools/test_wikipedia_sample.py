"""How the articles that the suite ships were made."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "tools" / "wikipedia_sample.py"
spec = importlib.util.spec_from_file_location("wikipedia_sample", PATH)
wikipedia_sample = importlib.util.module_from_spec(spec)
spec.loader.exec_module(wikipedia_sample)


def test_markup_is_stripped() -> None:
    pytest.importorskip("mwparserfromhell", reason="tools/wikipedia_sample.py alone needs it")
    text = """{{Infobox|a={{b}}}}[[File:x.jpg|thumb|A [[caption]]]]
'''Albedo''' ({{IPA|x}}; from [[Latin language|Latin]])<ref>note {{cite}}</ref> is ''white''.<br>

== Uses ==
{| class="wikitable"
| cell
|}
=== Trees ===
<blockquote>Trees &amp; <small>shrubs<ref name="a"/></small> grow.</blockquote>
* item
== See also ==
Other pages. [[Category:Light]]
== Empty =="""
    assert wikipedia_sample.lines("Albedo", text) == [
        "",
        "= Albedo =",
        "",
        "Albedo (from Latin) is white.",
        "",
        "== Uses ==",
        "",
        "",
        "=== Trees ===",
        "",
        "Trees & shrubs grow.",
    ]


def test_what_it_needs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install.* gensim.* mwparserfromhell"):
        wikipedia_sample.dump()
