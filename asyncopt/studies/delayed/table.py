"""Table of the staleness study."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.report.table import Column, Table, table_of
from asyncopt.report.text import NOTHING, rate_text, times_text
from asyncopt.studies.delayed.plan import DelayRow, delay_text
from asyncopt.studies.delayed.problems import DelayedProblem
from asyncopt.studies.rows import TIME_MEANING


def _staleness(row: DelayRow) -> str:
    if row.staleness is None:
        return NOTHING
    return f"{row.staleness.mean:.1f} / {row.staleness.p99:.0f}"


def _ratio(row: DelayRow) -> str:
    return NOTHING if row.is_serial else times_text(row.ratio.median)


DELAY = Column[DelayRow](
    "delay",
    "seconds that workers sleep before each push",
    lambda r: NOTHING if r.is_serial else delay_text(r.delay),
)
BOUND = Column[DelayRow](
    "bound",
    "of staleness, in turns of other workers",
    lambda r: NOTHING if r.max_staleness is None else str(r.max_staleness),
)
SYNC = Column[DelayRow](
    "sync",
    "how workers share weights; plain SGD: one worker, serial, no delay",
    lambda r: r.sync or "plain SGD",
)
SCHEDULE = Column[DelayRow]("schedule", "how long steps are", lambda r: r.schedule)
STALE = Column[DelayRow](
    "stale mean/p99", "pushes by others between a worker's pull and push", _staleness
)
RATE = Column[DelayRow](
    "updates/s",
    "pushes per second, all workers together",
    lambda r: rate_text(r.updates_per_second.median),
)
TIME = Column[DelayRow]("time s", TIME_MEANING, lambda r: str(r.seconds))


def study_table(problem: DelayedProblem, rows: Sequence[DelayRow]) -> Table:
    """One table row per row: plain SGD first, then delay by delay, sync by sync."""
    bounded = any(row.max_staleness is not None for row in rows)
    columns = [DELAY, *([BOUND] if bounded else []), SYNC, SCHEDULE, STALE, RATE, TIME]
    for measure in problem.measures:
        columns.append(measure.column())
        if measure == problem.main:
            meaning = f"{measure.heading} against plain SGD's with the same schedule, in pairs"
            columns.append(Column("vs plain", meaning, _ratio))
    return table_of(
        columns,
        rows,
        left=columns.index(STALE),
        group=lambda row: (row.delay, row.max_staleness),
        aside=lambda row: row.is_serial,
    )
