"""Tables of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from asyncopt.optim.kernels import syncs
from asyncopt.report.table import Column, Table, TableRow, table_of
from asyncopt.report.text import NOTHING, rate_text, share_text
from asyncopt.studies.dense.plan import SyncRow
from asyncopt.studies.rows import TIME_MEANING
from asyncopt.studies.training.jobs import UNSHARED


def per_push_text(count: int, row: SyncRow) -> str:
    """A count per push: ``490``, ``0.75``, ``<0.001``."""
    if row.sync is None:
        return NOTHING
    each = count / max(row.pushes, 1)
    return "<0.001" if 0 < each < 0.001 else rate_text(float(f"{each:.2g}"))


def counted_text(value: float | None, row: SyncRow, text: Callable[[float], str]) -> str:
    """`value`, which is None where it was not counted: ``?``."""
    if value is None:
        return NOTHING if row.sync is None else "?"
    return text(value)


def _staleness(row: SyncRow) -> str:
    found = row.staleness
    return NOTHING if found is None else f"{found.p50:.0f} / {found.p99:.0f}"


CASE = Column[SyncRow](
    "case", "target of a push: a whole vector, or rows of a table", lambda r: r.case
)
SYNC = Column[SyncRow]("sync", "how workers share weights", lambda r: r.variant)
WORKERS = Column[SyncRow]("workers", "workers that train at once", lambda r: str(r.workers))
TIME = Column[SyncRow]("time s", TIME_MEANING, lambda r: str(r.seconds))
RATE = Column[SyncRow](
    "updates/s",
    "pushes per second, all workers together",
    lambda r: rate_text(r.updates_per_second.median),
)
ELEMENTS = Column[SyncRow](
    "elements/s",
    "element updates per second, all workers together",
    lambda r: rate_text(r.element_updates_per_second.median),
)
SPEEDUP = Column[SyncRow](
    "speed-up",
    "against one worker of the same sync",
    lambda r: NOTHING if r.speedup is None else f"{r.speedup:.2f}x",
)
LOSS = Column[SyncRow](
    "test loss",
    "mean cross entropy on held-out images after training",
    lambda r: f"{r.test_loss.median:.3f}" if r.test_loss else NOTHING,
)
ACCURACY = Column[SyncRow](
    "accuracy",
    "share of held-out images classified right after training",
    lambda r: f"{r.test_accuracy.median:.1%}" if r.test_accuracy else NOTHING,
)
STALE = Column[SyncRow](
    "stale p50/p99", "pushes by others between a worker's pull and push", _staleness
)
WAIT = Column[SyncRow](
    "lock wait",
    "share of all workers' time spent waiting for a lock",
    lambda r: share_text(r.lock_wait_share) if r.sync else NOTHING,
)
WAITS = Column[SyncRow](
    "waits/push", "waits for a lock per push", lambda r: per_push_text(r.lock_waits, r)
)
RETRIES = Column[SyncRow](
    "retries/push",
    "attempts that had to be repeated, per push",
    lambda r: per_push_text(r.retries, r),
)
LOST = Column[SyncRow](
    "lost updates",
    "element updates overwritten by other workers; ? where not counted",
    lambda r: counted_text(r.lost_updates, r, rate_text),
)
LOST_SHARE = Column[SyncRow](
    "lost share",
    "part of all element updates that was lost",
    lambda r: counted_text(r.lost_share, r, share_text),
)
KILLED = Column[SyncRow](
    "killed", "workers killed while they trained", lambda r: f"{r.killed or 0:,}"
)
AGAIN = Column[SyncRow](
    "twice",
    "mini-batches that both a killed worker and its replacement pushed",
    lambda r: f"{r.trained_again:,}",
)
REPAIRS = Column[SyncRow](
    "repairs",
    "locks taken over from killed workers",
    lambda r: f"{r.repairs:,}" if r.sync else NOTHING,
)

TRAINING = (SYNC, WORKERS, TIME, RATE, SPEEDUP, LOSS, ACCURACY, STALE, WAIT, LOST)
CONTENTION = (
    CASE,
    SYNC,
    WORKERS,
    RATE,
    ELEMENTS,
    SPEEDUP,
    STALE,
    WAITS,
    WAIT,
    RETRIES,
    LOST,
    LOST_SHARE,
)
KILLS = (KILLED, AGAIN, REPAIRS)  # where workers were to be killed
AT_MOST_WORKERS = (WAIT, RETRIES, LOST_SHARE)


def in_order(rows: Iterable[SyncRow]) -> list[SyncRow]:
    """Rows of one problem case by case, each case sync by sync, each sync by workers."""
    rows = list(rows)
    cases = list(dict.fromkeys(row.case for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    return sorted(
        rows,
        key=lambda row: (cases.index(row.case), variants.index(row.variant), row.workers),
    )


def full_table(rows: Sequence[SyncRow]) -> Table:
    """One table row per row."""
    columns: tuple[Column[SyncRow], ...] = CONTENTION if rows[0].case else TRAINING
    if any(row.killed is not None for row in rows):
        columns += KILLS
    return table_of(
        columns,
        in_order(rows),
        left=columns.index(WORKERS),
        group=lambda row: (row.case, row.variant),
        aside=lambda row: row.variant == UNSHARED,
    )


def contention_table(rows: Sequence[SyncRow]) -> Table:
    """One table row per case and variant: a rate per worker count, the rest at the highest."""
    counts = sorted({row.workers for row in rows})
    found = {(row.case, row.variant, row.workers): row for row in rows}
    pairs = list(dict.fromkeys((row.case, row.variant) for row in in_order(rows)))
    rates = [(f"updates/s, {count}w", f"pushes per second of {count} workers") for count in counts]
    most = f"; with {counts[-1]} workers"
    table_rows = []
    for place, (case, variant) in enumerate(pairs):
        highest = found[case, variant, counts[-1]]
        cells = [case, variant]
        cells += [RATE.cell(found[case, variant, count]) for count in counts]
        cells += [column.cell(highest) for column in (SPEEDUP, *AT_MOST_WORKERS)]
        last = place + 1 == len(pairs) or pairs[place + 1][0] != case
        table_rows.append(TableRow(cells, variant == UNSHARED, last))
    return Table(
        headings=[
            (CASE.heading, CASE.meaning),
            (SYNC.heading, SYNC.meaning),
            *rates,
            *((column.heading, column.meaning + most) for column in (SPEEDUP, *AT_MOST_WORKERS)),
        ],
        rows=table_rows,
        left=2,
    )


def short_table(rows: Sequence[SyncRow]) -> Table:
    """The table of the terminal and at the top of a report section."""
    return contention_table(rows) if rows[0].case else full_table(rows)


def guarantees(names: Iterable[str]) -> Table:
    """The guarantees of syncs, from the build's own list."""
    headings = (
        "sync",
        "may lose updates",
        "readers may see half an update",
        "may wait for another worker",
        "workers hold copies",
    )
    rows = []
    for name in names:
        sync = syncs()[name]
        answers = (sync["may_lose"], sync["may_tear"], sync["may_block"], sync["replica"])
        cells = [name, *("yes" if answer else "no" for answer in answers)]
        rows.append(TableRow(cells, aside=False, last=True))
    return Table([(heading, "") for heading in headings], rows, left=len(headings))
