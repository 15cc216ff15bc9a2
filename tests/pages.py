"""Checks of HTML pages: one well-formed file that loads nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collect ids, loaded resources, and tags that do not close in order."""

    VOID = frozenset({"meta", "br", "img", "hr", "input", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self._look(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._look(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def _look(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            local = (value or "").startswith(("#", "data:"))  # in the page itself
            if name in ("src", "href", "xlink:href", "data", "srcset") and not local:
                self.loaded.append(f"{name}={value}")


def check_page(page: str) -> None:
    """Fails if tags do not close in order, ids clash or dangle, or anything would be loaded."""
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.loaded == []
    assert not reader.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    # Matplotlib repeats the outline of a letter in each plot that has it; names keep plots apart.
    assert len(reader.ids) == len(set(reader.ids))
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert {first or second for first, second in used} <= set(reader.ids)
