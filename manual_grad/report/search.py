"""The index of the search box: every section of every page, with its position, title and words.

A page opened from disk may load a script but no data, so the sections are a script that sets one variable.
"""

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

FILE = "sections.js"
SECTIONS = frozenset({"article", "section", "aside"})
HEADINGS = frozenset({"h1", "h2", "h3", "h4"})
SILENT = frozenset(
    {"a.skip", "details.behind", "details.code", "details.reckoned", "div.facts", "footer.site", "head"}
    | {"header.site", "nav", "table#entries"}
)
_UNREAD = re.compile(r"<(math|pre|script|svg)\b.*?</\1>", re.DOTALL)  # most of a page
INLINE = frozenset(["a", "b", "code", "em", "i", "span", "strong", "sub", "sup"])
VOID = frozenset(["br", "hr", "img", "input", "link", "meta", "wbr"])
REPEATED = ("errata.html", "questions.html", "handout")  # their content also appears elsewhere


class _Reader(HTMLParser):
    """The sections of a page: anchor, title, text; the first is the page itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[dict[str, Any]] = [{"anchor": "", "title": "", "text": "", "headings": 0}]
        self.open: list[tuple[str, int, bool]] = []  # element, section, whether it is silent
        self.feed(_UNREAD.sub("", html))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in VOID:
            return
        given = dict(attrs)
        section, silent = (self.open[-1][1], self.open[-1][2]) if self.open else (0, False)
        if tag in SECTIONS and given.get("id"):
            section = len(self.found)
            self.found.append({"anchor": f"#{given['id']}", "title": "", "text": "", "headings": 0})
        self.found[section]["text"] += "" if tag in INLINE else " "
        self.found[section]["headings"] += tag in HEADINGS
        names = {tag, f"{tag}.{given.get('class')}", f"{tag}#{given.get('id')}"}
        self.open.append((tag, section, silent or not names.isdisjoint(SILENT)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1][2]:
            return
        section = self.found[self.open[-1][1]]
        heading = any(tag in HEADINGS for tag, number, _ in self.open if number == self.open[-1][1])
        section["title" if heading and section["headings"] == 1 else "text"] += data


def sections(pages: Mapping[str, str]) -> list[list[str]]:
    """Place, title and text of each section that has any.

    >>> sections({"a.html": "<main><h1>A</h1><p>b <article id=c><h2>C d</h2><p>e</p></article></main>"})
    [['a.html', 'A', 'b'], ['a.html#c', 'C d', 'e']]
    """
    found = []
    for name, html in pages.items():
        for section in _Reader(html).found[: 1 if name.startswith(REPEATED) else None]:
            title, text = (" ".join(section[part].split()) for part in ("title", "text"))
            if title:
                found.append([name + section["anchor"], title, text])
    return found


def script(pages: Mapping[str, str]) -> bytes:
    """The sections as a script."""
    return f"window.SECTIONS = {json.dumps(sections(pages), ensure_ascii=False)};\n".encode()
