"""History of a run: its samples, and rates between each two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from asyncopt.run.telemetry.samples import Floats, Integers, Sample, Sampler
from asyncopt.store.ledger import Histogram

if TYPE_CHECKING:
    from asyncopt.run.observe import RunView

__all__ = ["History", "Intervals"]


@dataclass(frozen=True, repr=False)
class History:
    """Samples of a run, at least one, and the intervals between them.

    Arrays have one row per interval, that is ``len(samples) - 1`` rows, and one column per worker
    (or per core). The counts of all intervals sum to those of the run's ledger.

    Attributes:
        samples: the counts at each sampling time.
        cores: the numbers of the cores that the run could use.
    """

    samples: tuple[Sample, ...]
    cores: tuple[int, ...]

    def __repr__(self) -> str:
        seconds = self.samples[-1].seconds - self.samples[0].seconds
        return f"History({len(self.samples)} samples, {seconds:.1f} s)"

    @property
    def workers(self) -> int:
        """Number of workers."""
        return len(self.samples[0].pushes)

    @property
    def seconds(self) -> Floats:
        """End of each interval in seconds since the start; one number per interval."""
        return self._at("seconds")[1:]

    @property
    def pushes(self) -> Integers:
        """Pushes in each interval."""
        return np.diff(self._at("pushes"), axis=0)

    @property
    def updates_per_second(self) -> Floats:
        """Pushes per second."""
        return self.pushes / self._lengths

    @property
    def retries(self) -> Integers:
        """Attempts that had to be repeated in each interval."""
        return np.diff(self._at("retries"), axis=0)

    @property
    def lock_wait_share(self) -> Floats:
        """The part of each interval that was spent waiting for locks, 0 to 1."""
        return np.diff(self._at("lock_wait_seconds"), axis=0) / self._lengths

    @property
    def restarts(self) -> Integers:
        """Replacements of each worker up to the end of the interval."""
        return self._at("restarts")[1:]

    @property
    def loss(self) -> Floats:
        """The last loss logged by the end of the interval; NaN before the first."""
        return self._at("loss")[1:]

    @property
    def cpu_use(self) -> Floats:
        """CPU time per second: 1.5 is one and a half cores. NaN without a process."""
        return np.diff(self._at("cpu_seconds"), axis=0) / self._lengths

    @property
    def core_use(self) -> Floats:
        """The share of the time for which each core was busy, with this run or other programs."""
        return np.diff(self._at("core_seconds"), axis=0) / self._lengths

    def staleness(self, interval: int, worker: int | None = None) -> Histogram:
        """The staleness of the pushes in one interval, by one worker or all."""
        before, after = self.samples[:-1][interval], self.samples[1:][interval]
        chosen = slice(None) if worker is None else slice(worker, worker + 1)
        return Histogram(
            (after.staleness - before.staleness)[chosen].sum(axis=0),
            int((after.staleness_sum - before.staleness_sum)[chosen].sum()),
        )

    def whole(self) -> History:
        """The run as one interval; CPU time is that sampled from the workers' processes."""
        first, last = self.samples[0], self.samples[-1]
        seen = self._at("cpu_seconds")
        least = np.where(np.isnan(seen), np.inf, seen).min(axis=0)
        most = np.where(np.isnan(seen), -np.inf, seen).max(axis=0)
        used = np.where(np.isfinite(least), most - least, np.nan)
        ends = (
            replace(first, cpu_seconds=np.zeros_like(used)),
            replace(last, cpu_seconds=used),
        )
        return History(ends, self.cores)

    @property
    def _lengths(self) -> Floats:
        """Seconds of each interval, as a column."""
        return np.diff(self._at("seconds"))[:, np.newaxis]

    def _at(self, name: str) -> npt.NDArray[Any]:
        return np.array([getattr(sample, name) for sample in self.samples])


class Intervals:
    """Intervals of a running run, one after the other."""

    def __init__(self, view: RunView) -> None:
        self._sampler = Sampler(view)
        self._first = self._last = self._sampler.sample()

    def next(self, least: float) -> History | None:
        """Interval since the last call; None if that was less than `least` seconds ago."""
        sample = self._sampler.sample()
        if sample.seconds - self._last.seconds < least:
            return None
        last, self._last = self._last, sample
        return History((last, sample), self._sampler.cores)

    def whole(self) -> History | None:
        """Interval since the start barrier; None if it was not reached."""
        sample = self._sampler.sample()
        if sample.seconds <= self._first.seconds:
            return None
        return History((self._first, sample), self._sampler.cores)
