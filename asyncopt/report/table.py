"""Tables of text, drawn on the terminal and on HTML pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

R = TypeVar("R")


class TableRow(NamedTuple):
    """Cells of one row; `aside`: not a contender; `last`: the end of a group."""

    cells: list[str]
    aside: bool
    last: bool


@dataclass(frozen=True)
class Table:
    """Headings with their meanings, and rows. The first `left` columns are words."""

    headings: list[tuple[str, str]]
    rows: list[TableRow]
    left: int

    def __str__(self) -> str:
        """Plain columns; `terminal.print_table` draws with rich."""
        lines = [[heading for heading, _ in self.headings], *(row.cells for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if place < self.left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


class Column(NamedTuple, Generic[R]):
    """A heading, its meaning, and the text of its cell for a row."""

    heading: str
    meaning: str
    cell: Callable[[R], str]


def table_of(
    columns: Sequence[Column[R]],
    rows: Sequence[R],
    *,
    left: int,
    group: Callable[[R], object],
    aside: Callable[[R], bool] = lambda row: False,
) -> Table:
    """A table with one row per element of `rows`.

    Args:
        columns: cells of each row.
        rows: in the order of the table.
        left: number of columns that are words.
        group: what rows of one group, which follow each other, have in common.
        aside: whether a row is no contender.
    """
    groups = [group(row) for row in rows]
    ends = [own != after for own, after in zip(groups, [*groups[1:], object()], strict=True)]
    return Table(
        headings=[(column.heading, column.meaning) for column in columns],
        rows=[
            TableRow([column.cell(row) for column in columns], aside(row), end)
            for row, end in zip(rows, ends, strict=True)
        ],
        left=left,
    )
