"""The comparison as sheets of text, which the terminal and the HTML report both draw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncopt.report.table import Line, Sheet
from asyncopt.report.text import NOTHING, rate_text, share_text
from asyncopt.studies.dense.plan import UNSHARED
from asyncopt.studies.results import Row
from asyncopt.studies.sheets import Column, seconds_text, sheet_of


def per_push_text(count: int, row: Row) -> str:
    """How often something happened per push: ``490``, ``0.75``; ``<0.001`` where rarely."""
    if row.sync is None:
        return NOTHING
    each = count / max(row.pushes, 1)
    return "<0.001" if 0 < each < 0.001 else rate_text(float(f"{each:.2g}"))


def lost_text(row: Row) -> str:
    """How many element updates were lost; ``?`` where nobody counted."""
    if row.lost_updates is None:
        return NOTHING if row.sync is None else "?"
    return rate_text(row.lost_updates)


def lost_share_text(row: Row) -> str:
    """Which part of all element updates was lost; ``?`` where nobody counted."""
    if row.lost_share is None:
        return NOTHING if row.sync is None else "?"
    return share_text(row.lost_share)


def _rate(row: Row) -> str:
    return rate_text(row.updates_per_second.median)


def _speedup(row: Row) -> str:
    return NOTHING if row.speedup is None else f"{row.speedup:.2f}x"


def _staleness(row: Row) -> str:
    if row.staleness is None:
        return NOTHING
    return f"{row.staleness.p50:.0f} / {row.staleness.p99:.0f}"


def _wait(row: Row) -> str:
    return share_text(row.lock_wait_share) if row.sync else NOTHING


def _retries(row: Row) -> str:
    return per_push_text(row.retries, row)


def _waits(row: Row) -> str:
    return per_push_text(row.lock_waits, row)


CASE: Column[Row] = Column(
    "case", "what a push touches: a whole vector, or rows of a table", lambda r: r.case
)
SYNC: Column[Row] = Column("sync", "how updates reach shared memory", lambda r: r.variant)
WORKERS: Column[Row] = Column("workers", "workers that train at once", lambda r: str(r.workers))
TIME: Column[Row] = Column(
    "time s", "median ± half the interquartile range, in percent", lambda r: seconds_text(r.seconds)
)
RATE: Column[Row] = Column("updates/s", "pushes per second, all workers together", _rate)
ELEMENTS: Column[Row] = Column(
    "elements/s",
    "element updates per second, all workers together",
    lambda r: rate_text(r.element_updates_per_second.median),
)
SPEEDUP: Column[Row] = Column("speed-up", "against one worker of the same sync", _speedup)
LOSS: Column[Row] = Column(
    "test loss",
    "mean cross entropy on held-out images after training",
    lambda r: f"{r.test_loss.median:.3f}" if r.test_loss else NOTHING,
)
ACCURACY: Column[Row] = Column(
    "accuracy",
    "share of held-out images classified right after training",
    lambda r: f"{r.test_accuracy.median:.1%}" if r.test_accuracy else NOTHING,
)
STALE: Column[Row] = Column(
    "stale p50/p99", "pushes by others between a worker's pull and push", _staleness
)
WAIT: Column[Row] = Column(
    "lock wait", "share of all workers' time spent waiting for a lock", _wait
)
WAITS: Column[Row] = Column("waits/push", "waits for a lock per push", _waits)
RETRIES: Column[Row] = Column(
    "retries/push", "attempts that had to be repeated, per push", _retries
)
LOST: Column[Row] = Column(
    "lost updates", "element updates overwritten by other workers; ? where not counted", lost_text
)
LOST_SHARE: Column[Row] = Column(
    "lost share", "part of all element updates that was lost", lost_share_text
)
KILLED: Column[Row] = Column(
    "killed", "workers killed while they trained", lambda r: f"{r.killed or 0:,}"
)
AGAIN: Column[Row] = Column(
    "twice",
    "mini-batches that both the killed and their replacements pushed",
    lambda r: f"{r.trained_again:,}",
)
REPAIRS: Column[Row] = Column(
    "repairs",
    "locks taken over from the killed",
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


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Rows of one problem case by case, each case sync by sync, each sync by workers."""
    rows = list(rows)
    cases = list(dict.fromkeys(row.case for row in rows))
    variants = list(dict.fromkeys(row.variant for row in rows))
    return sorted(
        rows,
        key=lambda row: (cases.index(row.case), variants.index(row.variant), row.workers),
    )


def full_sheet(rows: Sequence[Row]) -> Sheet:
    """One line per row."""
    columns: tuple[Column[Row], ...] = CONTENTION if rows[0].case else TRAINING
    if any(row.killed is not None for row in rows):
        columns += KILLS
    return sheet_of(
        columns,
        in_order(rows),
        left=columns.index(WORKERS),
        group=lambda row: (row.case, row.variant),
        aside=lambda row: row.variant == UNSHARED,
    )


def contention_sheet(rows: Sequence[Row]) -> Sheet:
    """One line per case and variant: the rate for each worker count, the rest at the highest."""
    counts = sorted({row.workers for row in rows})
    found = {(row.case, row.variant, row.workers): row for row in rows}
    pairs = list(dict.fromkeys((row.case, row.variant) for row in in_order(rows)))
    rates = [(f"updates/s, {count}w", f"pushes per second of {count} workers") for count in counts]
    most = f"; with {counts[-1]} workers"
    lines = []
    for place, (case, variant) in enumerate(pairs):
        highest = found[case, variant, counts[-1]]
        cells = [case, variant]
        cells += [_rate(found[case, variant, count]) for count in counts]
        cells += [column.cell(highest) for column in (SPEEDUP, *AT_MOST_WORKERS)]
        last = place + 1 == len(pairs) or pairs[place + 1][0] != case
        lines.append(Line(cells, variant == UNSHARED, last))
    return Sheet(
        headings=[
            (CASE.heading, CASE.meaning),
            (SYNC.heading, SYNC.meaning),
            *rates,
            *((column.heading, column.meaning + most) for column in (SPEEDUP, *AT_MOST_WORKERS)),
        ],
        lines=lines,
        left=2,
    )


def short_sheet(rows: Sequence[Row]) -> Sheet:
    """What the terminal and the head of a report section show."""
    return contention_sheet(rows) if rows[0].case else full_sheet(rows)
