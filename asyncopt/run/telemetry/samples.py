"""Samples of a run: all counts of its workers so far, by rank."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt._limits import allowed_cpus
from asyncopt.run.telemetry.usage import core_seconds, process_seconds, thread_seconds

if TYPE_CHECKING:
    from asyncopt.run.observe import RunView
    from asyncopt.run.optimizers import SharedOptimizer
    from asyncopt.store import Store

__all__ = ["Floats", "Integers", "Sample", "Sampler"]

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]

_COUNTS = itemgetter("pushes", "retries", "lock_waits", "lock_wait_ns", "staleness_sum")
_BEFORE_STALENESS = 5  # counts ahead of the histogram in a row


@dataclass(frozen=True)
class Sample:
    """Counts of a run so far. Arrays have one row per worker unless said otherwise.

    Attributes:
        seconds: since the start barrier.
        pushes: pushes applied.
        retries: attempts repeated.
        lock_waits: locks that were not free at once.
        lock_wait_seconds: time spent waiting for them.
        staleness: pushes by staleness, shape (workers, buckets of the ledger's histogram).
        staleness_sum: the sum of the staleness of all pushes.
        restarts: how often the worker was replaced.
        loss: the last one logged; NaN before the first.
        cpu_seconds: CPU time; NaN while the worker has no process.
        core_seconds: time for which each core was busy, with this run or other programs, shape
            (cores,); NaN before the start barrier.
    """

    seconds: float
    pushes: Integers
    retries: Integers
    lock_waits: Integers
    lock_wait_seconds: Floats
    staleness: Integers
    staleness_sum: Integers
    restarts: Integers
    loss: Floats
    cpu_seconds: Floats
    core_seconds: Floats


class Sampler:
    """Takes samples of one run.

    Args:
        view: the run. Samples hold counts since this sampler was made.

    Attributes:
        cores: the numbers of the cores in ``Sample.core_seconds``: those that the run may use.
    """

    def __init__(self, view: RunView) -> None:
        self._view = view
        self._slots = [_Slots(optimizer, view.workers) for optimizer in view.optimizers]
        self._clocks = [_Clock(rank) for rank in range(view.workers)]
        self._busy = core_seconds(allowed_cpus())
        self.cores = tuple(self._busy)

    def sample(self) -> Sample:
        """The run as it is now."""
        seconds = self._view.elapsed()
        processes = self._view.process_ids()
        counts = np.zeros((self._view.workers, _width()), dtype=np.int64)
        for slots in self._slots:
            counts += slots.count(processes)
        # Before the start barrier, workers import and unpickle; that time is not counted.
        busy = core_seconds(self.cores) if seconds > 0 else dict.fromkeys(self.cores, np.nan)
        board = self._view.board
        return Sample(
            seconds=seconds,
            pushes=counts[:, 0],
            retries=counts[:, 1],
            lock_waits=counts[:, 2],
            lock_wait_seconds=counts[:, 3] * 1e-9,
            staleness=counts[:, _BEFORE_STALENESS:],
            staleness_sum=counts[:, 4],
            restarts=np.array(self._view.restarts(), dtype=np.int64),
            loss=np.array([board.seat(rank)["loss"] for rank in range(self._view.workers)]),
            cpu_seconds=np.array(
                [
                    clock.read(process)
                    for clock, process in zip(self._clocks, processes, strict=True)
                ]
            ),
            core_seconds=np.array([busy[core] - since for core, since in self._busy.items()]),
        )


def _width() -> int:
    return _BEFORE_STALENESS + len(_core.staleness_floors())


class _Slots:
    """The counts of one store, credited to ranks.

    A store counts by slot. The counts of a slot go to the rank whose process holds it, or after
    that process has left, to its last known rank. Every push is counted in one rank, also if a
    replacement takes the slot of a dead worker.
    """

    def __init__(self, optimizer: SharedOptimizer, workers: int) -> None:
        self._segment = cast("Store", optimizer.store).segment
        self._own: int = optimizer.sharing.worker  # the launcher's slot
        self._ranks: dict[int, int] = {}
        self._seen = {raw["slot"]: _row(raw) for raw in self._segment.ledger()}
        self._totals = np.zeros((workers, _width()), dtype=np.int64)

    def count(self, processes: Sequence[int | None]) -> Integers:
        """Counts of each rank since construction, shape (workers, counts)."""
        slots = [raw for raw in self._segment.ledger() if raw["slot"] != self._own]
        self._find_ranks({raw["slot"]: raw["process"] for raw in slots}, processes)
        for raw in slots:
            slot, row = raw["slot"], _row(raw)
            if (row != self._seen[slot]).any():
                self._totals[self._rank(slot)] += row - self._seen[slot]
                self._seen[slot] = row
        return self._totals

    def _find_ranks(self, owners: dict[int, int], processes: Sequence[int | None]) -> None:
        me = os.getpid()
        if me in processes:  # threads: copies of the optimizer claim slots in the order of ranks
            mine = sorted(slot for slot, owner in owners.items() if owner == me)
            for rank, slot in enumerate(mine[-len(processes) :]):
                self._ranks.setdefault(slot, rank)
            return
        ranks = {process: rank for rank, process in enumerate(processes)}
        for slot, owner in owners.items():
            if owner in ranks:
                self._ranks[slot] = ranks[owner]

    def _rank(self, slot: int) -> int:
        """The slot's rank; if its owner was never sampled, a rank that has no slot yet."""
        if slot not in self._ranks:
            free = set(range(len(self._totals))) - set(self._ranks.values())
            self._ranks[slot] = min(free, default=0)
        return self._ranks[slot]


def _row(raw: _core.WorkerCounts) -> Integers:
    return np.array([*_COUNTS(raw), *raw["staleness"]], dtype=np.int64)


class _Clock:
    """Total CPU time of the successive processes (or threads) of one rank."""

    def __init__(self, rank: int) -> None:
        self._thread_name = f"asyncopt-worker-{rank}"
        self._process: int | None = None
        self._now = 0.0
        self._before = 0.0  # of those that have been replaced

    def read(self, process: int | None) -> float:
        """Seconds so far; NaN while there is no process."""
        if process is not None and process != self._process:
            self._before += self._now
            self._process, self._now = process, 0.0
        seconds = None if process is None else self._ran(process)
        if seconds is None:
            return np.nan
        self._now = seconds
        return self._before + seconds

    def _ran(self, process: int) -> float | None:
        if process != os.getpid():
            return process_seconds(process)
        for thread in threading.enumerate():
            if thread.name == self._thread_name and thread.native_id is not None:
                return thread_seconds(thread.native_id)
        return None
