"""Make the Wikipedia sample that the suite ships, from the dump that gensim ships.

    pip install --no-deps gensim==4.4.0 mwparserfromhell==0.7.2
    python tools/wikipedia_sample.py

It writes `experiments/data/wikipedia_sample.json.bz2`, the articles, and
`experiments/data/wikipedia_sample.md`, their licence and which revisions they are, and prints the
digest that `experiments.data.wikipedia` holds the first against. Markup is stripped, and tables,
lists, notes and the like are left out; redirects are no articles. It takes half a minute.
"""

from __future__ import annotations

import bz2
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

DATA = Path(__file__).parents[1] / "experiments" / "data"
DUMP = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
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
NOTICE = """# Articles of the English Wikipedia

`wikipedia_sample.json.bz2` has the text of {count} articles of the English Wikipedia, by their
authors, under the licence
[CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/). Each was changed: markup is
stripped, and tables, lists, notes, pictures and the sections after the text are left out. The
authors of an article are in its history, which the links lead to.

The revisions are those of a dump of 2016 that gensim 4.4.0 has among its test data;
`tools/wikipedia_sample.py` made both files from it.

| article | revision | of |
|---|---|---|
{rows}
"""


def dump() -> Path:
    """gensim's part of a dump, found without the seconds that importing gensim takes."""
    gensim = importlib.util.find_spec("gensim")
    if not (gensim and gensim.origin and importlib.util.find_spec("mwparserfromhell")):
        sys.exit(
            "gensim and mwparserfromhell are needed; "
            "pip install --no-deps gensim==4.4.0 mwparserfromhell==0.7.2"
        )
    return Path(gensim.origin).parent / DUMP


def articles(path: Path) -> Iterator[dict[str, str]]:
    """Title, revision, day and text of every page that is not a redirect, in the dump's order."""
    with bz2.open(path) as file:
        for _, page in ElementTree.iterparse(file):
            if not page.tag.endswith("}page"):
                continue
            space = page.tag.removesuffix("page")
            if page.find(f"{space}redirect") is None:
                title = page.findtext(f"{space}title", "")
                revision = f"{space}revision/{space}"
                yield {
                    "title": title,
                    "revision": page.findtext(f"{revision}id", ""),
                    "day": page.findtext(f"{revision}timestamp", "")[:10],
                    "text": "\n".join(lines(title, page.findtext(f"{revision}text", ""))),
                }
            page.clear()


def lines(title: str, wikitext: str) -> list[str]:
    """Title, headings and paragraphs of an article; a heading without paragraphs is left out."""
    import mwparserfromhell

    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    remove_clutter(code)
    found = ["", f"= {title} =", ""]
    headings: list[tuple[str, str]] = []  # those above the next paragraph, not yet in `found`
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
                found += ["", f"{signs} {above} {signs}", ""]
            headings = []
            found.append(text)
    return found


def remove_clutter(code: Any) -> None:
    """Remove all but running text from a tree of markup."""
    from mwparserfromhell.nodes import Comment, Tag, Template, Wikilink

    kept = []
    for node in code.nodes:
        if isinstance(node, Tag):
            if str(node.tag).strip().lower() in CLUTTER_TAGS:
                continue
            if node.contents is not None:
                remove_clutter(node.contents)
        elif isinstance(node, Template | Comment) or (
            isinstance(node, Wikilink) and CLUTTER_LINK.match(str(node.title))
        ):
            continue
        kept.append(node)
    code.nodes = kept


def main() -> None:
    """Write the articles and their notice; print the digest of the first."""
    found = list(articles(dump()))
    content = bz2.compress(json.dumps(found, ensure_ascii=False, indent=0).encode())
    (DATA / "wikipedia_sample.json.bz2").write_bytes(content)
    rows = [
        f"| [{a['title']}](https://en.wikipedia.org/w/index.php?oldid={a['revision']}) "
        f"| {a['revision']} | {a['day']} |"
        for a in found
    ]
    notice = NOTICE.format(count=len(found), rows="\n".join(rows))
    (DATA / "wikipedia_sample.md").write_text(notice, encoding="utf-8")
    print(hashlib.sha256(content).hexdigest())


if __name__ == "__main__":
    main()
