"""Cross-validations as tables of text."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

from asyncopt.report.table import Table, TableRow

if TYPE_CHECKING:
    from asyncopt.tasks.folds import CrossValidation

__all__ = ["fold_sheet", "score_text", "sheet_text"]

WIDTH = 100  # characters of a table that rich draws


def fold_sheet(result: CrossValidation) -> Table:
    """A line per fold, and one for mean and spread."""
    names = list(result.folds[0].scores)
    lines = [
        TableRow(
            [
                str(fold.number),
                *(score_text(fold.scores[name]) for name in names),
                f"{fold.best} of {len(fold.epochs)}",
                f"{fold.seconds:.1f}",
                "earlier" if math.isnan(fold.begin) else str(fold.worker),
            ],
            aside=False,
            last=fold is result.folds[-1],
        )
        for fold in result.folds
    ]
    mean, std = result.mean, result.std
    spread = [f"{score_text(mean[name])} ± {score_text(std[name])}" for name in names]
    lines.append(
        TableRow(["mean", *spread, "", f"{result.seconds:.1f}", ""], aside=False, last=True)
    )
    headings = [
        ("fold", "number of the fold"),
        *((name, "on the examples held out") for name in names),
        ("epoch", "the one whose model was scored, of those trained"),
        ("seconds", "of the fold in its worker; of the whole call in the last line"),
        ("worker", "rank of the worker that trained it"),
    ]
    return Table(headings, lines, left=1)


def score_text(score: float) -> str:
    """Four digits behind the point, or as few as a large number needs."""
    return f"{score:.4f}" if abs(score) < 100 else f"{score:.4g}"


def sheet_text(sheet: Table) -> str:
    """A sheet as lines of text: drawn by rich where that is installed, else in plain columns."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
    except ModuleNotFoundError:
        return _plain(sheet)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, (heading, _) in enumerate(sheet.headings):
        table.add_column(heading, justify="left" if place < sheet.left else "right")
    for line in sheet.rows:
        table.add_row(*line.cells, end_section=line.last)
    text = io.StringIO()
    Console(file=text, width=WIDTH).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def _plain(sheet: Table) -> str:
    rows = [[heading for heading, _ in sheet.headings], *(line.cells for line in sheet.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < sheet.left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
