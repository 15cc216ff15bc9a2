"""Text summaries of a run: one line for all workers, and a table of workers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from asyncopt.report.table import Table, TableRow
from asyncopt.report.text import NOTHING, rate_text, share_text
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.samples import Floats
from asyncopt.store.ledger import Histogram

__all__ = ["sentence", "staleness_text", "workers_table"]


def sentence(change: History) -> str:
    """The last interval of `change` in one line."""
    cores = float(np.nansum(change.cpu_use[-1]))
    parts = [
        f"{change.seconds[-1]:.1f} s",
        f"{rate_text(float(change.updates_per_second[-1].sum()))} updates/s",
        f"staleness {staleness_text(change.staleness(-1))}",
        f"lock wait {share_text(float(change.lock_wait_share[-1].mean()))}",
        f"loss {_loss_text(mean_known(change.loss[-1]))}",
        f"CPU {cores:.1f} of {len(change.cores)} cores" if cores > 0 else "",
        f"restarts {change.restarts[-1].sum()}",
    ]
    return ", ".join(part for part in parts if part)


def workers_table(change: History, phases: Sequence[str] | None = None) -> Table:
    """A row for each worker with the last interval of `change` and its current phase."""
    headings = [
        ("worker", "its rank"),
        ("phase", "what it is doing now"),
        ("updates/s", "pushes per second"),
        ("stale p50/p99", "pushes by others between its pull and its push"),
        ("lock wait", "share of the time spent waiting for locks"),
        ("retries", "attempts that had to be repeated"),
        ("restarts", "how often it was replaced"),
        ("loss", "the last one that it logged"),
        ("CPU", "processor time over time"),
    ]
    lines = [
        TableRow(
            [
                str(rank),
                phase,
                rate_text(float(change.updates_per_second[-1, rank])),
                staleness_text(change.staleness(-1, rank)),
                share_text(float(change.lock_wait_share[-1, rank])),
                f"{change.retries[-1, rank]:,}",
                str(change.restarts[-1, rank]),
                _loss_text(float(change.loss[-1, rank])),
                _percent_text(float(change.cpu_use[-1, rank])),
            ],
            aside=phase == "done",
            last=False,
        )
        for rank, phase in enumerate(phases or [""] * change.workers)
    ]
    if phases is None:
        headings.pop(1)
        for line in lines:
            line.cells.pop(1)
    return Table(headings, lines, left=1 if phases is None else 2)


def staleness_text(histogram: Histogram) -> str:
    """Median and 99th percentile: ``1/4``."""
    if not histogram.count:
        return NOTHING
    return f"{histogram.percentile(50):.0f}/{histogram.percentile(99):.0f}"


def mean_known(values: Floats) -> float:
    """The mean of the values that are not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _loss_text(loss: float) -> str:
    return NOTHING if math.isnan(loss) else f"{loss:.4g}"


def _percent_text(share: float) -> str:
    return NOTHING if math.isnan(share) else f"{share:.0%}"
