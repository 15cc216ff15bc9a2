"""Tables of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from asyncopt.report.table import Column, Table, TableRow, table_of
from asyncopt.report.text import NOTHING, rate_text
from asyncopt.simulate import Costs, LineCost
from asyncopt.studies.simulation.findings import error_text
from asyncopt.studies.simulation.plan import PredictionRow


def _error(error: float | None) -> str:
    return NOTHING if error is None else error_text(error)


def _measured_rate(row: PredictionRow) -> str:
    rate = row.measured_updates_per_second
    return NOTHING if rate is None else rate_text(rate.median)


def _stale(row: PredictionRow) -> str:
    return f"{row.staleness_mean:.1f} / {row.staleness_p99}"


def _measured_stale(row: PredictionRow) -> str:
    found = row.measured_staleness
    return NOTHING if found is None else f"{found.mean:.2f} / {found.p50:.0f} / {found.p99:.0f}"


SYNC: Column[PredictionRow] = Column("sync", "how workers share weights", lambda r: r.sync)
CORES: Column[PredictionRow] = Column("cores", "with one worker each", lambda r: str(r.cores))
COLUMNS: tuple[Column[PredictionRow], ...] = (
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
    Column(
        "retries/push",
        "predicted: attempts that had to be repeated",
        lambda r: rate_text(r.retries),
    ),
)


def full_table(rows: Sequence[PredictionRow]) -> Table:
    """One table row per row of a workload."""
    return table_of(COLUMNS, rows, left=1, group=lambda row: row.sync)


def short_table(rows: Sequence[PredictionRow]) -> Table:
    """One table row per sync: rates by cores with the errors of those measured; staleness last."""
    counts = sorted({row.cores for row in rows})
    measured = {row.cores for row in rows if row.error is not None}
    headings = [(SYNC.heading, SYNC.meaning)]
    cells: list[Callable[[PredictionRow], str]] = []
    places: list[int] = []

    def add(heading: str, meaning: str, cores: int, cell: Callable[[PredictionRow], str]) -> None:
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
    table_rows = [
        TableRow(
            [sync, *(cell(found[sync, at]) for cell, at in zip(cells, places, strict=True))],
            aside=False,
            last=sync == syncs[-1],
        )
        for sync in syncs
    ]
    return Table(headings, table_rows, left=1)


def costs_table(costs: Mapping[str, Costs]) -> Table:
    """One table row per cost, a column per case, in nanoseconds."""
    every = [each.as_json() for each in costs.values()]
    table_rows = [
        TableRow([name, *(_nanoseconds(each[name]) for each in every)], aside=False, last=False)
        for name in every[0]
    ]
    return Table([("cost", ""), *((name, "") for name in costs)], table_rows, left=1)


def _nanoseconds(cost: float | dict[str, float]) -> str:
    if isinstance(cost, dict):
        own, remote = LineCost(**cost)
        return f"{own * 1e9:.3g} / {remote * 1e9:.3g}"
    return f"{cost * 1e9:.4g}"
