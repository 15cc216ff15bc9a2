"""Use of the processors over time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from asyncopt._limits import allowed_cpus
from asyncopt.run.telemetry.usage import core_seconds

__all__ = ["CpuUse", "CpuWatch"]

MOST = 2000  # samples kept; beyond that, every other one is dropped


class CpuUse:
    """Use of each core over time, by all processes of the machine.

    Attributes:
        cores: the numbers of the cores that this process may use.
        times: ends of the intervals, in seconds since the watch began, shape (intervals,).
        busy: share of each interval that each core was busy, shape (intervals, cores).
    """

    def __init__(self, cores: tuple[int, ...], samples: Sequence[tuple[float, ...]]) -> None:
        table = np.array(samples).reshape(-1, 1 + len(cores))
        self.cores = cores
        self.times: npt.NDArray[np.float64] = table[1:, 0]
        self.busy: npt.NDArray[np.float64] = np.diff(table[:, 1:], axis=0) / np.diff(
            table[:, :1], axis=0
        )

    @property
    def mean(self) -> float:
        """Mean busy share over all cores and the whole time; NaN if nothing was measured."""
        if not self.busy.size:
            return float("nan")
        lengths = np.diff(self.times, prepend=0.0)
        return float(np.average(self.busy.mean(axis=1), weights=lengths))


class CpuWatch:
    """Takes samples when it is called, at most one per ``interval``.

    Args:
        interval: seconds, at first; it doubles whenever there are too many samples.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._begin = time.monotonic()
        self._cores = tuple(sorted(core_seconds(allowed_cpus())))
        self._samples: list[tuple[float, ...]] = []
        self()

    def __call__(self) -> None:
        """Take a sample if the last one is at least `interval` old."""
        now = time.monotonic() - self._begin
        if self._samples and now - self._samples[-1][0] < self._interval:
            return
        seconds = core_seconds(self._cores)
        self._samples.append((now, *(seconds[core] for core in self._cores)))
        if len(self._samples) > MOST:
            del self._samples[1::2]
            self._interval *= 2

    def use(self) -> CpuUse:
        """Samples so far."""
        return CpuUse(self._cores, self._samples)
