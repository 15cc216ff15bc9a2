"""Tables of the doctor: measured rates and predicted modes."""

from __future__ import annotations

from collections.abc import Sequence

from asyncopt.report.table import Column, Table, table_of
from asyncopt.report.text import NOTHING, rate_text
from asyncopt.studies.diagnosis.findings import best_of, milliseconds
from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.plan import RateRow


def rate_table(rows: Sequence[RateRow], threads: int) -> Table:
    """Copies, pushes and transfers; `threads`: number of all threads."""
    columns = [
        Column[RateRow]("measured", "kind of transfer", lambda row: row.what),
        Column[RateRow](
            "parameters",
            "number of parameters pushed",
            lambda row: NOTHING if row.parameters is None else rate_text(row.parameters),
        ),
        Column[RateRow](
            "one thread",
            "time, and bytes per second",
            lambda row: _cost_text(row.seconds, row.bytes_per_second),
        ),
        Column[RateRow](
            f"{threads} threads",
            "all of them",
            lambda row: _cost_text(row.seconds_together, row.bytes_per_second_together),
        ),
    ]
    return table_of(columns, rows, left=1, group=lambda row: row.what)


def _cost_text(seconds: float | None, rate: float | None) -> str:
    """``1.2 ms, 12.4 GB/s``; ``12.4 GB/s``."""
    if rate is None:
        return NOTHING
    bandwidth = f"{rate / 1e9:.3g} GB/s"
    return bandwidth if seconds is None else f"{milliseconds(seconds)}, {bandwidth}"


MODES: list[Column[Forecast]] = [
    Column("mode", "how workers train one model", lambda each: each.mode),
    Column(
        "step",
        "of a worker, from one of its batches to the next",
        lambda each: milliseconds(each.seconds),
    ),
    Column("batches/s", "of all workers", lambda each: rate_text(each.rate)),
    Column("speed-up", "against one worker by itself", lambda each: f"{each.speedup:.2f}x"),
    Column("staleness", "pushes that a gradient misses", lambda each: str(each.staleness)),
    Column("waits for", "the shared place that saturates", lambda each: each.waits_for or NOTHING),
]


def mode_table(found: Sequence[Forecast]) -> Table:
    """One table row per mode; all but the best are dimmed."""
    best = best_of(found)
    return table_of(
        MODES, found, left=1, group=lambda each: each.mode, aside=lambda each: each is not best
    )
