"""Tables of text, which a terminal and an HTML page both draw."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import NamedTuple


class Line(NamedTuple):
    """Cells of one line; `aside`: not a contender; `last`: the end of a group."""

    cells: list[str]
    aside: bool
    last: bool


@dataclass(frozen=True)
class Sheet:
    """Headings with their meanings, and lines under them. The first `left` columns are words."""

    headings: list[tuple[str, str]]
    lines: list[Line]
    left: int


def sheet_html(sheet: Sheet) -> str:
    """A sheet as an HTML table."""
    heads = "".join(
        f'<th scope="col" title="{html.escape(meaning)}"{_word(place, sheet)}>'
        f"{html.escape(heading)}</th>"
        for place, (heading, meaning) in enumerate(sheet.headings)
    )
    lines = []
    for line in sheet.lines:
        names = " ".join(name for name, on in (("aside", line.aside), ("last", line.last)) if on)
        cells = "".join(
            f"<td{_word(place, sheet)}>{html.escape(text)}</td>"
            for place, text in enumerate(line.cells)
        )
        lines.append(f'<tr class="{names}">{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _word(place: int, sheet: Sheet) -> str:
    return ' class="word"' if place < sheet.left else ""
