"""The English Wikipedia articles that gensim's wheel carries, as lines of running text."""

from __future__ import annotations

import bz2
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from experiments.errors import UserError

SAMPLE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
CLUTTER_TAGS = {"gallery", "imagemap", "math", "pre", "ref", "references", "source", "table"}
CLUTTER_LINK = re.compile(r"\s*(file|image|category|[a-z]{2,3})\s*:", re.IGNORECASE)
# Unpaired tags and quotes, switches, and what templates leave empty inside brackets.
LEFTOVER = re.compile(r"</?[a-z][^<>]*>|'{2,}|__[A-Z]+__|\([\s,;:]*\)|(?<=\()[\s,;:]+")
PROSE = re.compile(r"[a-z]{2}")
HEADING = re.compile(r"(={2,6})\s*(.*?)\s*\1\s*$")
END_MATTER = re.compile(
    r"(see also|notes|footnotes|citations|references|sources|bibliography|works cited"
    r"|further reading|external links)\b",
    re.IGNORECASE,
)


def sample_file() -> Path:
    """gensim's sample of Wikipedia, found without the seconds that importing gensim takes."""
    gensim = importlib.util.find_spec("gensim")
    path = Path(gensim.origin).parent / SAMPLE if gensim and gensim.origin else None
    if path is None or not path.is_file() or not importlib.util.find_spec("mwparserfromhell"):
        raise UserError(
            "data=wikipedia_sample: needs gensim and mwparserfromhell; "
            "pip install --no-deps gensim==4.4.0 mwparserfromhell==0.7.2"
        )
    return path


def articles_of_sample(path: Path) -> Iterator[list[str]]:
    """The lines of every article that is not a redirect, in the file's order."""
    try:
        with bz2.open(path) as file:
            for _, page in ElementTree.iterparse(file):
                if not page.tag.endswith("}page"):
                    continue
                space = page.tag.removesuffix("page")
                if page.find(f"{space}redirect") is None:
                    title = page.findtext(f"{space}title", "")
                    yield _article(title, page.findtext(f"{space}revision/{space}text", ""))
                page.clear()
    except (OSError, EOFError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: damaged ({error}); reinstall gensim") from error


def _article(title: str, wikitext: str) -> list[str]:
    """Title, headings and paragraphs; tables, lists, notes and the like are left out."""
    import mwparserfromhell

    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    _remove_clutter(code)
    lines = ["", f"= {title} =", ""]
    headings: list[tuple[str, str]] = []  # those above the next paragraph, not yet in `lines`
    in_end_matter = False
    for line in str(code).splitlines():
        text = LEFTOVER.sub("", mwparserfromhell.parse(line).strip_code()).strip()
        heading = HEADING.match(line)
        if heading:
            signs = heading[1]
            headings = [h for h in headings if len(h[0]) < len(signs)] + [(signs, text)]
            if signs == "==":
                in_end_matter = END_MATTER.match(text) is not None
        elif PROSE.search(text) and not in_end_matter and line[0] not in "*#:;|!{}":
            for signs, above in headings:
                lines += ["", f"{signs} {above} {signs}", ""]
            headings = []
            lines.append(text)
    return lines


def _remove_clutter(code: Any) -> None:
    """Remove all but running text from a tree of markup."""
    from mwparserfromhell.nodes import Comment, Tag, Template, Wikilink

    kept = []
    for node in code.nodes:
        if isinstance(node, Tag):
            if str(node.tag).strip().lower() in CLUTTER_TAGS:
                continue
            if node.contents is not None:
                _remove_clutter(node.contents)
        elif isinstance(node, Template | Comment) or (
            isinstance(node, Wikilink) and CLUTTER_LINK.match(str(node.title))
        ):
            continue
        kept.append(node)
    code.nodes = kept
