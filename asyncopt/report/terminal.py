"""Tables on the terminal, drawn by rich."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Mapping

from rich import box
from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from asyncopt.report.table import Table

BREAKS = {"workers": "work-\ners", "accuracy": "accu-\nracy"}  # for 80 characters
ROOMY = 100  # characters: a terminal this wide has room for more space between columns


WIDTH = 120  # characters of a line where there is no terminal


def drawn_text(draw: Callable[[Console], None]) -> str:
    """Text that `draw` prints, without colours and without blanks at the ends of lines."""
    text = io.StringIO()
    draw(Console(file=text, width=WIDTH, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def print_table(
    console: Console, title: str | None, table: Table, *, break_headings: bool = True
) -> None:
    """Draw `table` under its title, with headings of several lines where that makes it narrow."""
    drawn = RichTable(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1 if console.width >= ROOMY else 0),
        collapse_padding=True,
        pad_edge=False,
    )
    for place, (heading, _) in enumerate(table.headings):
        justify: JustifyMethod = "left" if place < table.left else "right"
        if break_headings:
            heading = BREAKS.get(heading) or re.sub(r" |(?<=-)|(?=/s)|(?=/push)", "\n", heading)
        drawn.add_column(
            heading,
            justify=justify,
            vertical="bottom",
            overflow="fold",
            no_wrap=place < table.left,
        )
    # Blank lines between groups help where groups are long, and double the table where not.
    apart = len(table.rows) >= 5 * sum(row.last for row in table.rows)
    for row in table.rows:
        style = "dim" if row.aside else None
        drawn.add_row(*row.cells, style=style, end_section=row.last and apart)
    console.print(drawn)


def print_sentences(console: Console, sentences: Iterable[str]) -> None:
    """Print each sentence as an indented paragraph."""
    for sentence in sentences:
        console.print(Padding(Text(sentence), (0, 0, 0, 2)), highlight=False)


def print_advice(console: Console, recommendations: Mapping[str, str]) -> None:
    """Print recommendations; their subjects are named if there are several."""
    for name, text in recommendations.items():
        subject = f" ({name})" if len(recommendations) > 1 else ""
        line = Text(f"Recommended{subject}: ", "bold").append(text, "default")
        console.print(line, highlight=False)
