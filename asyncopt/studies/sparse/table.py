"""A comparison on sparse problems as sheets of text."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.report.table import Sheet
from asyncopt.report.text import NOTHING
from asyncopt.studies.measures import Measure
from asyncopt.studies.sheets import Column, seconds_text, sheet_of
from asyncopt.studies.sparse.results import Row
from asyncopt.studies.sparse.subject import Subject

CONTENDER: Column[Row] = Column(
    "contender", "how threads share the model, or another library", lambda r: r.contender
)
WORKERS: Column[Row] = Column("workers", "threads that train at once", lambda r: str(r.workers))
TIME: Column[Row] = Column(
    "time s",
    "a whole call of fit; median ± half the interquartile range, in percent",
    lambda r: seconds_text(r.seconds),
)
SPEEDUP: Column[Row] = Column(
    "speed-up",
    "against one worker of the same contender",
    lambda r: NOTHING if r.speedup is None else f"{r.speedup:.2f}x",
)


def sheet(subject: Subject, rows: Sequence[Row]) -> Sheet:
    """One line per row of a problem: contender by contender, each by workers."""
    columns = [CONTENDER, WORKERS, TIME, SPEEDUP, *map(_measured, subject.measures)]
    return sheet_of(
        columns,
        rows,
        left=1,
        group=lambda row: row.contender,
        aside=lambda row: row.sync is None,
    )


def _measured(measure: Measure) -> Column[Row]:
    return Column(
        measure.heading, measure.meaning, lambda row: measure.text(row.scores[measure.name].median)
    )
