"""A study as sheets of text, which the terminal and the HTML report both draw."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.report.table import Sheet
from asyncopt.report.text import NOTHING, rate_text
from asyncopt.studies.delayed.results import Row, delay_text, times
from asyncopt.studies.delayed.subject import Subject
from asyncopt.studies.measures import Measure
from asyncopt.studies.sheets import Column, seconds_text, sheet_of


def _staleness(row: Row) -> str:
    if row.staleness is None:
        return NOTHING
    return f"{row.staleness.mean:.1f} / {row.staleness.p99:.0f}"


def _ratio(row: Row) -> str:
    return NOTHING if row.is_serial else times(row.ratio.median)


DELAY: Column[Row] = Column(
    "delay",
    "seconds that workers sleep before each push",
    lambda r: NOTHING if r.is_serial else delay_text(r.delay),
)
BOUND: Column[Row] = Column(
    "bound",
    "of staleness, in turns of other workers",
    lambda r: NOTHING if r.max_staleness is None else str(r.max_staleness),
)
SYNC: Column[Row] = Column(
    "sync",
    "how updates reach shared memory; plain SGD: one worker, serial, no delay",
    lambda r: r.sync or "plain SGD",
)
SCHEDULE: Column[Row] = Column("schedule", "how long steps are", lambda r: r.schedule)
STALE: Column[Row] = Column(
    "stale mean/p99", "pushes by others between a worker's pull and push", _staleness
)
RATE: Column[Row] = Column(
    "updates/s",
    "pushes per second, all workers together",
    lambda r: rate_text(r.updates_per_second.median),
)
TIME: Column[Row] = Column(
    "time s", "median ± half the interquartile range, in percent", lambda r: seconds_text(r.seconds)
)


def study_sheet(subject: Subject, rows: Sequence[Row]) -> Sheet:
    """One line per row of a problem: plain SGD first, then delay by delay, sync by sync."""
    bounded = any(row.max_staleness is not None for row in rows)
    columns = [DELAY, *([BOUND] if bounded else []), SYNC, SCHEDULE, STALE, RATE, TIME]
    for measure in subject.measures:
        columns.append(_measured(measure))
        if measure == subject.main:
            meaning = f"{measure.heading} against plain SGD's with the same schedule, in pairs"
            columns.append(Column("vs plain", meaning, _ratio))
    return sheet_of(
        columns,
        rows,
        left=columns.index(STALE),
        group=lambda row: (row.delay, row.max_staleness),
        aside=lambda row: row.is_serial,
    )


def _measured(measure: Measure) -> Column[Row]:
    return Column(
        measure.heading,
        measure.meaning,
        lambda row: measure.text(row.scores[measure.name].median),
    )
