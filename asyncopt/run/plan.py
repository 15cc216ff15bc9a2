"""How a run is laid out on the machine and how long it may take."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The checked settings of a run.

    Attributes:
        workers: number of workers.
        threads: torch threads of each worker.
        pin: whether each worker is bound to CPUs of its own.
        timeout: seconds from the start barrier to the last return; may be infinite.
        start_timeout: seconds until all workers stand at the start barrier.
        allowed: the CPUs that this process may use, ascending.
    """

    workers: int
    threads: int
    pin: bool
    timeout: float
    start_timeout: float
    allowed: tuple[int, ...]

    @classmethod
    def check(
        cls, workers: Any, threads_per_worker: Any, pin: bool, timeout: Any, start_timeout: Any
    ) -> Plan:
        """Build a plan from what the user passed to ``launch``.

        Raises:
            TypeError, ValueError: naming the argument.
        """
        workers = _count("workers", workers)
        allowed = tuple(sorted(os.sched_getaffinity(0)))
        threads = (
            max(1, len(allowed) // workers)
            if threads_per_worker is None
            else _count("threads_per_worker", threads_per_worker)
        )
        return cls(
            workers=workers,
            threads=threads,
            pin=bool(pin),
            timeout=math.inf if timeout is None else _seconds("timeout", timeout),
            start_timeout=_seconds("start_timeout", start_timeout),
            allowed=allowed,
        )

    def cpus(self, rank: int) -> tuple[int, ...]:
        """The CPUs to bind worker ``rank`` to, as many as it has threads; () leaves it free."""
        if not self.pin:
            return ()
        first = rank * self.threads
        return tuple(
            self.allowed[i % len(self.allowed)] for i in range(first, first + self.threads)
        )


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name}: expected an integer >= 1, got {value!r}")
    count = value.__index__()
    if count < 1:
        raise ValueError(f"{name}: expected an integer >= 1, got {count}")
    return int(count)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected seconds > 0, got {value!r}")
    if not value > 0:
        raise ValueError(f"{name}: expected seconds > 0, got {value!r}")
    return float(value)
