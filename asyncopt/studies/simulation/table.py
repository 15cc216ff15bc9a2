"""A simulation as sheets of text, which the terminal and the HTML report both draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from asyncopt.report.table import Line, Sheet
from asyncopt.report.text import NOTHING, rate_text
from asyncopt.studies.sheets import Column, sheet_of
from asyncopt.studies.simulation.findings import error_text
from asyncopt.studies.simulation.results import Row


def _error(error: float | None) -> str:
    return NOTHING if error is None else error_text(error)


def _measured_rate(row: Row) -> str:
    rate = row.measured_updates_per_second
    return NOTHING if rate is None else rate_text(rate.median)


def _stale(row: Row) -> str:
    return f"{row.staleness_mean:.1f} / {row.staleness_p99}"


def _measured_stale(row: Row) -> str:
    found = row.measured_staleness
    return NOTHING if found is None else f"{found.mean:.2f} / {found.p50:.0f} / {found.p99:.0f}"


SYNC: Column[Row] = Column("sync", "how updates reach shared memory", lambda r: r.sync)
CORES: Column[Row] = Column("cores", "with one worker each", lambda r: str(r.cores))
COLUMNS: tuple[Column[Row], ...] = (
    SYNC,
    CORES,
    Column(
        "updates/s",
        "predicted, all workers together",
        lambda r: rate_text(r.updates_per_second),
    ),
    Column("measured", "the same on this machine, median", _measured_rate),
    Column("error", "of the prediction, against what was measured", lambda r: _error(r.error)),
    Column(
        "stale mean/p50/p99",
        "predicted: pushes by others between a worker's pull and push",
        lambda r: f"{r.staleness_mean:.2f} / {r.staleness_p50} / {r.staleness_p99}",
    ),
    Column("measured stale", "the same on this machine", _measured_stale),
    Column("error of mean", "of the predicted mean staleness", lambda r: _error(r.staleness_error)),
    Column("waits/push", "predicted: locks that were not free", lambda r: rate_text(r.waits)),
    Column("retries/push", "predicted: work done in vain", lambda r: rate_text(r.retries)),
)


def full_sheet(rows: Sequence[Row]) -> Sheet:
    """One line per row of a workload."""
    return sheet_of(COLUMNS, rows, left=1, group=lambda row: row.sync, aside=lambda row: False)


def short_sheet(rows: Sequence[Row]) -> Sheet:
    """One line per sync: rates by cores with the errors of those measured; staleness at last."""
    counts = sorted({row.cores for row in rows})
    measured = {row.cores for row in rows if row.error is not None}
    headings = [(SYNC.heading, SYNC.meaning)]
    cells: list[Callable[[Row], str]] = []
    places: list[int] = []

    def add(heading: str, meaning: str, cores: int, cell: Callable[[Row], str]) -> None:
        headings.append((heading, meaning))
        places.append(cores)
        cells.append(cell)

    for count in counts:
        add(
            f"{count} core{'s' if count > 1 else ''}",
            f"predicted updates per second on {count} cores",
            count,
            lambda row: rate_text(row.updates_per_second),
        )
        if count in measured:
            add("error", "against what was measured", count, lambda row: _error(row.error))
    add("stale mean/p99", f"predicted on {counts[-1]} cores", counts[-1], _stale)
    found = {(row.sync, row.cores): row for row in rows}
    syncs = list(dict.fromkeys(row.sync for row in rows))
    lines = [
        Line(
            [sync, *(cell(found[sync, at]) for cell, at in zip(cells, places, strict=True))],
            aside=False,
            last=sync == syncs[-1],
        )
        for sync in syncs
    ]
    return Sheet(headings, lines, left=1)
