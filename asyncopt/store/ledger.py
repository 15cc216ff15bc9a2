"""The ledger: counters of every worker of a store, read as one immutable snapshot."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt import _core

__all__ = ["Histogram", "Ledger", "WorkerLedger"]


@functools.cache
def _edges() -> npt.NDArray[np.int64]:
    edges = np.asarray(_core.staleness_floors(), dtype=np.int64)
    edges.setflags(write=False)
    return edges


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of non-negative integers: 0 to 63 exactly, then four buckets per power of two.

    Args:
        counts: int64, one count per bucket.
        total: the sum of the counted values.
    """

    counts: npt.NDArray[np.int64]
    total: int

    @property
    def edges(self) -> npt.NDArray[np.int64]:
        """The smallest value of each bucket."""
        return _edges()

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        """The mean of the counted values; NaN if there are none."""
        return self.total / self.count if self.count else float("nan")

    def percentile(self, q: float) -> float:
        """The value that `q` per cent of the counted ones do not exceed, as its bucket's edge.

        Args:
            q: from 0 to 100.

        Returns:
            The percentile (exact up to 63, within a quarter above); NaN if nothing was counted.

        Raises:
            ValueError: `q` is not in [0, 100].
        """
        if not 0 <= q <= 100:
            raise ValueError(f"q: expected a percentage from 0 to 100, got {q}")
        if self.count == 0:
            return float("nan")
        rank = max(1, int(np.ceil(self.count * q / 100)))
        return float(self.edges[int(np.searchsorted(np.cumsum(self.counts), rank))])

    def __repr__(self) -> str:
        """A one-line summary instead of hundreds of counts."""
        return f"Histogram(count={self.count}, mean={self.mean:.3g}, p99={self.percentile(99):g})"

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts, self.total + other.total)

    def __sub__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts - other.counts, self.total - other.total)


@dataclasses.dataclass(frozen=True)
class WorkerLedger:
    """Counts of one worker.

    Attributes:
        slot: the worker's place in its store; 0 is the process that made the store.
        process: process id of the slot's owner; 0 if it has left.
        pushes: pushes applied.
        retries: compare-exchanges that failed and were repeated, or snapshots read again.
        lock_waits: locks that were not free at once.
        lock_wait_seconds: time spent waiting for them.
        lost_updates: element updates of parameters lost to races; None where they were not counted,
            as under ``hogwild`` without ``audit=True``.
        lost_state_updates: the same for optimizer state.
        skipped_nonfinite: pushes skipped because a gradient was infinite or NaN.
        repairs: locks taken over from an owner that died inside; each may hide one partial push.
        unfinished: pushes that a LockTimeout interrupted (``striped``) and that no later step of
            the worker has finished.
        staleness: histogram over pushes of (version at the push) - (version at the last pull).
    """

    slot: int
    process: int
    pushes: int
    retries: int
    lock_waits: int
    lock_wait_seconds: float
    lost_updates: int | None
    lost_state_updates: int | None
    skipped_nonfinite: int
    repairs: int
    unfinished: int
    staleness: Histogram

    def __add__(self, other: WorkerLedger) -> WorkerLedger:
        """The sum of both counts, with the slot and process of `other`."""
        return _combined(operator.add, other, self)

    def __sub__(self, other: WorkerLedger) -> WorkerLedger:
        """The counts since `other`, an earlier snapshot of the same slot."""
        return _combined(operator.sub, self, other)


_COUNTS = (
    "pushes",
    "retries",
    "lock_waits",
    "lock_wait_seconds",
    "lost_updates",
    "lost_state_updates",
    "skipped_nonfinite",
    "repairs",
    "unfinished",
    "staleness",
)


@dataclasses.dataclass(frozen=True)
class Ledger:
    """The counts of all workers of one store, or of several stores together.

    Every count of :class:`WorkerLedger` is also a property here: the sum over the workers. A sum is
    None if a worker did not count.

    Attributes:
        version: versions that the store (or all stores) had: pushes, and writes without a push.
        workers: the workers with a count above 0.
    """

    version: int
    workers: tuple[WorkerLedger, ...]

    @classmethod
    def read(cls, segment: _core.Segment, *, counts_lost: bool) -> Ledger:
        """A snapshot of the counters of a segment.

        Args:
            segment: the segment.
            counts_lost: whether its lost updates were counted, or cannot occur.
        """
        workers = []
        for raw in segment.ledger():
            counts: dict[str, Any] = dict(raw)
            counts["lock_wait_seconds"] = counts.pop("lock_wait_ns") * 1e-9
            counts["staleness"] = Histogram(
                np.asarray(counts["staleness"], dtype=np.int64), counts.pop("staleness_sum")
            )
            if not counts_lost:
                counts.update(lost_updates=None, lost_state_updates=None)
            workers.append(WorkerLedger(**counts))
        return cls(segment.version, tuple(w for w in workers if _did_something(w)))

    @classmethod
    def alone(cls, skipped_nonfinite: int) -> Ledger:
        """The ledger of an optimizer without a store: nothing is counted but skipped pushes."""
        if skipped_nonfinite == 0:
            return cls(0, ())
        counts: dict[str, Any] = dict.fromkeys(_COUNTS, 0)
        counts.update(skipped_nonfinite=skipped_nonfinite, staleness=_sum_histograms([]))
        return cls(0, (WorkerLedger(slot=0, process=os.getpid(), **counts),))

    @classmethod
    def merge(cls, ledgers: Iterable[Ledger]) -> Ledger:
        """The counts of several stores together: versions add up, workers are listed one by one."""
        every = list(ledgers)
        return cls(sum(e.version for e in every), tuple(w for e in every for w in e.workers))

    def since(self, earlier: Ledger) -> Ledger:
        """Difference of two snapshots of one store."""
        before = {w.slot: w for w in earlier.workers}
        return Ledger(
            self.version - earlier.version,
            tuple(
                w
                for w in (w - before[w.slot] if w.slot in before else w for w in self.workers)
                if _did_something(w)
            ),
        )

    def __str__(self) -> str:
        """The counts of pushes, races and locks, in one line."""
        late = self.staleness
        lost = "not counted" if self.lost_updates is None else f"{self.lost_updates:,}"
        unfinished = f", {self.unfinished:,} pushes unfinished" if self.unfinished else ""
        return (
            f"{self.pushes:,} pushes, staleness {late.mean:.3g} (p99 {late.percentile(99):g}); "
            f"{self.lock_waits:,} lock waits of {self.lock_wait_seconds:.3g} s together, "
            f"{self.retries:,} retries, lost updates: {lost}, "
            f"{self.skipped_nonfinite:,} pushes skipped, {self.repairs:,} locks repaired"
            f"{unfinished}"
        )

    @property
    def pushes(self) -> int:
        """Pushes applied."""
        return sum(w.pushes for w in self.workers)

    @property
    def retries(self) -> int:
        """Compare-exchanges repeated and snapshots read again."""
        return sum(w.retries for w in self.workers)

    @property
    def lock_waits(self) -> int:
        """Locks that were not free at once."""
        return sum(w.lock_waits for w in self.workers)

    @property
    def lock_wait_seconds(self) -> float:
        """Seconds spent waiting for locks."""
        return sum(w.lock_wait_seconds for w in self.workers)

    @property
    def lost_updates(self) -> int | None:
        """Element updates of parameters lost to races; None where they were not counted."""
        return _sum_counted([w.lost_updates for w in self.workers])

    @property
    def lost_state_updates(self) -> int | None:
        """Element updates of optimizer state lost to races; None where they were not counted."""
        return _sum_counted([w.lost_state_updates for w in self.workers])

    @property
    def skipped_nonfinite(self) -> int:
        """Pushes skipped because of a NaN or infinity."""
        return sum(w.skipped_nonfinite for w in self.workers)

    @property
    def repairs(self) -> int:
        """Locks taken over from an owner that died inside."""
        return sum(w.repairs for w in self.workers)

    @property
    def unfinished(self) -> int:
        """Pushes that a LockTimeout interrupted and that were not finished since."""
        return sum(w.unfinished for w in self.workers)

    @property
    def staleness(self) -> Histogram:
        """Staleness of all pushes."""
        return _sum_histograms([w.staleness for w in self.workers])


def _sum_histograms(histograms: Sequence[Histogram]) -> Histogram:
    empty = Histogram(np.zeros(len(_edges()), dtype=np.int64), 0)
    return sum(histograms, start=empty)


def _did_something(worker: WorkerLedger) -> bool:
    return worker.pushes > 0 or worker.skipped_nonfinite > 0 or worker.lock_waits > 0


def _sum_counted(counts: Sequence[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _combined(
    operation: Callable[[Any, Any], Any], worker: WorkerLedger, other: WorkerLedger
) -> WorkerLedger:
    """`worker` with each count replaced by ``operation(count, other's)``; None stays None."""
    pairs = {name: (getattr(worker, name), getattr(other, name)) for name in _COUNTS}
    counts: dict[str, Any] = {
        name: None if a is None or b is None else operation(a, b) for name, (a, b) in pairs.items()
    }
    return dataclasses.replace(worker, **counts)
