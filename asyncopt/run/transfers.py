"""Transfers and pushes of workers with devices, and the share hidden behind computing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np
import torch

from asyncopt.devices import Span, Spans
from asyncopt.errors import SegmentError
from asyncopt.run.board import Board
from asyncopt.store.memory import map_new_memfd

__all__ = ["ROWS", "TransferLog", "Transfers"]

#: The rows of a worker: background transfers, and the time that computing waited for them.
ROWS = ("gradients out", "push", "parameters back", "stalled")

_PHASES = ("push", "push", "pull", "wait")  # the board's phase for each row


@dataclass(frozen=True)
class Transfers:
    """Background copies, pushes and pulls of a run with ``devices``, over all workers.

    Attributes:
        seconds: time in which a worker had any of these in progress.
        stalled_seconds: time in which a worker computed nothing because it waited for them.
    """

    seconds: float
    stalled_seconds: float

    @property
    def hidden(self) -> float:
        """The share of ``seconds`` that overlapped computing, 0 to 1; NaN if there were none."""
        if not self.seconds:
            return float("nan")
        return max(0.0, 1 - self.stalled_seconds / self.seconds)


class TransferLog:
    """Shared memory in which workers record time spans; the launcher reads them at any time.

    Sums cover the whole run; single spans are kept for the last 2048 of each row.

    Args:
        workers: number of workers.
    """

    def __init__(self, workers: int) -> None:
        self._open(map_new_memfd(8 * len(_SUMS) * workers), Board(workers * len(ROWS)))

    def _open(self, memory: torch.Tensor, board: Board) -> None:
        self._memory = memory
        self.board = board
        self._sums = memory.view(torch.int64).numpy().reshape(-1, len(_SUMS))

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            raise SegmentError("transfers: a log can be sent only to a process being spawned")
        return _opened, (self._memory, self.board)

    def of(self, rank: int) -> _Writer:
        """The writer for worker ``rank``; use it from one thread at a time."""
        return _Writer(self.board, rank, self._sums[rank])

    def total(self) -> Transfers:
        """Totals of all workers so far."""
        busy, stalled = (float(each) * 1e-9 for each in self._sums.sum(axis=0))
        return Transfers(busy, stalled)


_SUMS = ("busy", "stalled")  # ns


def _opened(memory: torch.Tensor, board: Board) -> TransferLog:
    log = TransferLog.__new__(TransferLog)
    log._open(memory, board)
    return log


class _Writer:
    """The worker's side; an ``asyncopt.devices.Log``."""

    def __init__(self, board: Board, rank: int, sums: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        self._board = board
        self._first = rank * len(ROWS)
        self._sums = sums
        self._covered: list[Span] = []  # disjoint, sorted: counted spans that new ones may overlap

    def __call__(self, spans: Spans) -> None:
        for row, (phase, some) in enumerate(zip(_PHASES, spans, strict=True), self._first):
            for begin, end in some:
                self._board.mark(row, phase, begin)
                self._board.mark(row, "done", end)
        self._sums[0] += self._cover([*spans.out, *spans.push, *spans.back])
        self._sums[1] += _length(spans.stalled)

    def _cover(self, spans: Sequence[Span]) -> int:
        """Nanoseconds covered by the spans and by no earlier ones.

        A push may begin before the previous one ends, but not before the previous one begins.
        """
        if not spans:
            return 0
        both = _united([*self._covered, *spans])
        added = _length(both) - _length(self._covered)
        first = min(begin for begin, _ in spans)
        self._covered = [span for span in both if span[1] > first]
        return added


def _united(spans: Iterable[Span]) -> list[Span]:
    """The union of the spans as disjoint, sorted spans."""
    apart: list[Span] = []
    for begin, end in sorted(spans):
        if apart and begin <= apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((begin, end))
    return apart


def _length(spans: Iterable[Span]) -> int:
    return sum(end - begin for begin, end in spans)
