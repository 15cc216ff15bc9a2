"""The observer behind ``launch(..., trace=...)``: a Chrome trace of the workers' phases.

The file is a JSON array of events, as chrome://tracing and https://ui.perfetto.dev read it. Format:
"Trace Event Format", Google, 2016. A launcher that is killed leaves the array open, which the
format allows.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any

from asyncopt.run.board import Board
from asyncopt.run.observe import Observer, RunView
from asyncopt.run.transfers import ROWS
from asyncopt.warn import warn_caller

__all__ = ["Trace"]

SPANS = 2_000_000  # about 200 MB; viewers are slow with more


class Trace(Observer):
    """Writes one span for each start, pull, compute, push and wait of every worker.

    A worker with a device has more rows: transfers of gradients, pushes, transfers of parameters,
    and stalls that waited for these.

    A seat of the board keeps its last 4096 events. Events that were overwritten before a tick read
    them are replaced by one span named ``lost`` with their number; a warning at the end gives the
    total.

    Args:
        path: the file to write; an existing file is replaced.
        interval: seconds between reads of the board.
        most: maximum number of spans to write; a warning at the end counts those left out.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], interval: float = 0.05, most: int = SPANS
    ) -> None:
        self.interval = interval
        self._path = os.fspath(path)
        self._most = most
        self._written = self._left_out = self._lost = 0
        self._file: IO[str] | None = None
        with open(self._path, "a", encoding="utf-8"):  # now, before anything is started
            pass

    def start(self, run: RunView) -> None:
        """Open the file and name its rows."""
        self._view = run
        zero = time.monotonic_ns()
        self._rows = [_Row(run.board, rank, rank, zero) for rank in range(run.workers)]
        names = [f"worker {row.rank}" for row in self._rows]
        if run.transfers is not None:
            pairs = itertools.product(range(run.workers), ROWS)
            for seat, (rank, name) in enumerate(pairs):
                self._rows.append(_Row(run.transfers.board, seat, rank, zero, tid=len(names)))
                names.append(f"worker {rank}: {name}")
        self._file = open(self._path, "w", encoding="utf-8")  # noqa: SIM115 - `end` closes it
        self._file.write("[\n" + _metadata("process_name", name="run"))
        for row, name in zip(self._rows, names, strict=True):
            self._file.write(_metadata("thread_name", tid=row.tid, name=name))

    def tick(self, now: float) -> None:
        """Write the spans that have ended since the last tick."""
        if self._file is None:
            return
        processes = self._view.process_ids()  # read first: a dead worker has no later events
        for row in self._rows:
            events, lost = row.board.events(row.seat, row.after)
            self._lost += lost
            for span in row.spans(events, lost, alive=processes[row.rank] is not None):
                if self._written < self._most:
                    self._file.write(span)
                    self._written += 1
                else:
                    self._left_out += 1
        self._file.flush()

    def end(self, error: BaseException | None) -> None:
        """Write the remaining spans, close the file, and warn of missing events and spans."""
        if self._file is None:
            return
        with self._file:
            self.tick(0.0)
            missing = {"lost": self._lost, "left_out": self._left_out}
            self._file.write(_metadata("asyncopt", **missing).removesuffix(",\n") + "\n]\n")
        self._file = None
        if self._lost:
            warn_caller(
                f"trace: {self._lost:,} events were overwritten before they could be read; spans "
                f"named lost stand for them in {self._path}"
            )
        if self._left_out:
            warn_caller(
                f"trace: {self._path} holds the first {self._written:,} spans; {self._left_out:,} "
                f"later ones were left out"
            )


class _Row:
    """The spans at one seat of a board: each lasts from one event to the next.

    Args:
        board: the board with the events.
        seat: their seat.
        rank: of the worker.
        zero: time on the monotonic clock, in ns, that is 0 in the file.
        tid: the row's number in the file; default: the rank.
    """

    def __init__(
        self, board: Board, seat: int, rank: int, zero: int, tid: int | None = None
    ) -> None:
        self.board = board
        self.seat = seat
        self.rank = rank
        self.tid = rank if tid is None else tid
        self.after = 0  # number of the last event
        self._zero = zero
        self._phase: str | None = None
        self._since = zero
        self._gap = 0  # events lost since then

    def spans(
        self, events: Sequence[tuple[int, int, str]], lost: int, *, alive: bool
    ) -> Iterator[str]:
        """Spans that ended with these events, the first of them after `lost` others."""
        self._gap += lost
        self.after += lost
        for self.after, ns, phase in events:
            yield from self._until(ns)
            self._phase = None if phase == "done" else phase
        if not alive:  # its last phase ended with it
            yield from self._until(time.monotonic_ns())
            self._phase = None

    def _until(self, ns: int) -> Iterator[str]:
        if self._gap:
            yield self._span("lost", ns, f',"args":{{"events":{self._gap}}}')
        elif self._phase is not None:
            yield self._span(self._phase, ns)
        self._since, self._gap = ns, 0

    def _span(self, name: str, end: int, more: str = "") -> str:
        begin, length = (self._since - self._zero) / 1e3, (end - self._since) / 1e3  # us
        return (
            f'{{"name":"{name}","ph":"X","pid":0,"tid":{self.tid},'
            f'"ts":{begin:.3f},"dur":{length:.3f}{more}}},\n'
        )


def _metadata(what: str, tid: int = 0, **args: Any) -> str:
    return json.dumps({"name": what, "ph": "M", "pid": 0, "tid": tid, "args": args}) + ",\n"
