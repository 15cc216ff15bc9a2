"""Share of the machine that other programs used during a measurement."""

from __future__ import annotations

import os
import time

import psutil

from asyncopt.run.telemetry.usage import core_seconds

MATTER = 0.05
"""Share of the cores' time from which others make a measurement doubtful."""


class Others:
    """Load by processes other than us and our descendants, from construction to `share`."""

    def __init__(self) -> None:
        self._cores = os.sched_getaffinity(0)
        self._start = self._others_seconds(), time.monotonic()

    def share(self) -> float:
        """Share of the cores' time, 0 to 1. Ticks of 10 ms: meaningless below about a second."""
        seconds, since = self._start
        others = self._others_seconds() - seconds
        return max(0.0, others) / ((time.monotonic() - since) * len(self._cores))

    def _others_seconds(self) -> float:
        return sum(core_seconds(self._cores).values()) - own_seconds()


def own_seconds() -> float:
    """Processor seconds of this process and its descendants, ended ones included."""
    this = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [this, *this.children(recursive=True)])
