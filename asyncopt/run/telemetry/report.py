"""``Run.report``: one page of HTML that shows how a run went."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from asyncopt._version import __version__
from asyncopt.report.page import Picture, render, write_whole
from asyncopt.report.table import Table, TableRow
from asyncopt.report.text import NOTHING, rate_text, share_text
from asyncopt.run.outcome import Loss
from asyncopt.run.telemetry.extras import needed
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.tables import staleness_text, workers_table
from asyncopt.store.ledger import Ledger

__all__ = ["write_report"]


class Finished(Protocol):
    """A finished run; `asyncopt.run.Run` describes the attributes."""

    @property
    def elapsed(self) -> float: ...
    @property
    def updates_per_second(self) -> float: ...
    @property
    def workers(self) -> int: ...
    @property
    def ledger(self) -> Ledger: ...
    @property
    def restarts(self) -> Sequence[int]: ...
    @property
    def losses(self) -> Sequence[Loss]: ...
    @property
    def history(self) -> History: ...


def write_report(run: Finished, path: str | os.PathLike[str]) -> None:
    """Write the page to `path` atomically.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: it cannot be written.
    """
    with needed("report", "matplotlib"):
        import asyncopt.run.telemetry.plots as _  # noqa: F401 - it is what needs matplotlib
    write_whole(Path(path), report_html(run))


def report_html(run: Finished) -> str:
    """The page."""
    history = run.history
    return render(
        "run.html",
        "asyncopt.run.telemetry",
        title="asyncopt run",
        measured=_facts(run),
        losses=_losses_table(run) if run.losses else None,
        workers=workers_table(history.whole()) if len(history.seconds) else None,
        pictures=_pictures(history),
    )


def _facts(run: Finished) -> dict[str, str]:
    ledger = run.ledger
    worked = run.elapsed * run.workers
    lost = ledger.lost_updates
    facts = {
        "workers": str(run.workers),
        "time": f"{run.elapsed:.2f} s",
        "updates": f"{ledger.pushes:,} ({rate_text(run.updates_per_second)} per second)",
        "staleness p50/p99": staleness_text(ledger.staleness),
        "lock wait": f"{share_text(ledger.lock_wait_seconds / worked)} of the workers' time",
        "retries": f"{ledger.retries:,}",
        "updates lost": (
            "not counted; audit=True counts them" if lost is None else f"{lost:,} elements"
        ),
        "pushes skipped": f"{ledger.skipped_nonfinite:,} for an infinite or NaN gradient",
        "repairs": f"{ledger.repairs:,} locks taken over from a dead owner",
        "unfinished": f"{ledger.unfinished:,} pushes that a LockTimeout ended in the middle",
        "replaced": f"{sum(run.restarts):,} workers",
        "versions": f"asyncopt {__version__}, torch {torch.__version__}",
    }
    optional = {
        "updates lost": lost is None or lost,
        "pushes skipped": ledger.skipped_nonfinite,
        "unfinished": ledger.unfinished,
    }
    return {name: text for name, text in facts.items() if optional.get(name, 1)}


def _losses_table(run: Finished) -> Table:
    headings = [
        ("worker", "its rank"),
        ("cause", "what happened to it"),
        ("after", "seconds since the start"),
        ("batch", "the one that it was working on"),
        ("repairs", "locks that others took over; each may hide one partial push"),
        ("replaced", "whether another worker took its place"),
    ]
    lines = [
        TableRow(
            [
                str(loss.rank),
                loss.cause,
                f"{loss.when:.2f} s",
                NOTHING if loss.batch is None else str(loss.batch),
                str(loss.repairs),
                "yes" if loss.replaced else "no",
            ],
            aside=False,
            last=False,
        )
        for loss in run.losses
    ]
    return Table(headings, lines, left=2)


def _pictures(history: History) -> Iterator[Picture]:
    """Plots for which there is data."""
    from asyncopt.run.telemetry import plots

    if not np.isnan(history.loss).all():
        yield Picture(
            "Loss",
            plots.loss("run-loss", history),
            "The last loss that each worker had logged when the run was looked at.",
        )
    yield Picture(
        "Throughput",
        plots.throughput("run-throughput", history),
        "Pushes per second, of each worker and of all together. A dashed line stands where a "
        "worker was replaced.",
    )
    if history.pushes.any():
        yield Picture(
            "Staleness",
            plots.staleness("run-staleness", history),
            "How many pushes by other workers landed between a worker's reading of the parameters "
            "and its own push.",
        )
    if not np.isnan(history.core_use).all():
        yield Picture(
            "CPU use per core",
            plots.cores("run-cores", history),
            "How busy each core was that the run could use, by this run or by other programs.",
        )
    if not np.isnan(history.cpu_use).all():
        yield Picture(
            "CPU use per worker",
            plots.processors("run-processors", history),
            "Processor time of each worker over time: 100% is one core. There is a gap where it "
            "had no process.",
        )
