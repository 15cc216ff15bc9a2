"""Rows as sheets of text, and sheets on the terminal; knows neither rows nor columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table

from asyncopt.report.table import Line, Sheet
from asyncopt.studies.results import Spread

R = TypeVar("R")

BREAKS = {"workers": "work-\ners", "accuracy": "accu-\nracy"}  # for 80 characters
ROOMY = 100  # characters: a terminal this wide has room for more space between columns


class Column(NamedTuple, Generic[R]):
    """A heading, what it means, and the text of its cell for a row."""

    heading: str
    meaning: str
    cell: Callable[[R], str]


def sheet_of(
    columns: Sequence[Column[R]],
    rows: Sequence[R],
    *,
    left: int,
    group: Callable[[R], object],
    aside: Callable[[R], bool],
) -> Sheet:
    """One line per row.

    Args:
        columns: what each line shows.
        rows: in the order of the lines.
        left: so many columns are words.
        group: what rows of one group, which follow each other, have in common.
        aside: whether a row is no contender.
    """
    groups = [group(row) for row in rows]
    ends = [own != after for own, after in zip(groups, [*groups[1:], object()], strict=True)]
    return Sheet(
        headings=[(column.heading, column.meaning) for column in columns],
        lines=[
            Line([column.cell(row) for column in columns], aside(row), end)
            for row, end in zip(rows, ends, strict=True)
        ],
        left=left,
    )


def seconds_text(spread: Spread) -> str:
    """Median, and half the distance between the quartiles in percent of it: ``1.23 ±4%``."""
    half = (spread.q3 - spread.q1) / 2 / spread.median
    return f"{spread.median:.{2 if spread.median >= 1 else 3}f} ±{half:.0%}"


def print_sheet(console: Console, title: str, sheet: Sheet) -> None:
    """Draw `sheet` on the terminal."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1 if console.width >= ROOMY else 0),
        collapse_padding=True,
        pad_edge=False,
    )
    for place, (heading, _) in enumerate(sheet.headings):
        justify: JustifyMethod = "left" if place < sheet.left else "right"
        narrow = BREAKS.get(heading) or re.sub(r" |(?<=-)|(?=/s)|(?=/push)", "\n", heading)
        table.add_column(
            narrow,
            justify=justify,
            vertical="bottom",
            overflow="fold",
            no_wrap=place < sheet.left,
        )
    # Blank lines between groups help where groups are long, and double the table where not.
    apart = len(sheet.lines) >= 5 * sum(line.last for line in sheet.lines)
    for line in sheet.lines:
        style = "dim" if line.aside else None
        table.add_row(*line.cells, style=style, end_section=line.last and apart)
    console.print(table)
