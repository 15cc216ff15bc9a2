"""Detection of workers without progress."""

from __future__ import annotations

import math
from pathlib import Path

__all__ = ["Stalls", "state_of"]

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a device",
    "T": "stopped; SIGCONT resumes it",
    "t": "stopped by a debugger",
    "Z": "dead",
}


def state_of(task: int) -> str:
    """State of a process or thread according to the kernel, in words.

    Args:
        task: its process id, or thread id.
    """
    try:
        stat = Path(f"/proc/{task}/stat").read_text()
    except OSError:
        return "gone"
    letter = stat.rpartition(")")[2].split()[0]  # the name before it may contain any character
    return _STATES.get(letter, f"in state {letter}")


class Stalls:
    """Time without progress of each worker; each stall is reported once.

    It is independent of processes and the clock: the caller passes counters and ``now``.

    Args:
        limit: seconds without progress that count as a stall; infinite: no stalls are reported.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._seen: dict[int, tuple[int, float]] = {}  # rank: progress, and when it was first seen

    @property
    def interval(self) -> float:
        """Seconds between checks."""
        return self._limit / 4

    def look(self, rank: int, progress: int, now: float) -> bool:
        """True if worker ``rank`` has stalled, the first time it is seen."""
        before, since = self._seen.get(rank, (-1, now))
        if progress != before:
            self._seen[rank] = (progress, now)
        elif now - since >= self._limit:
            self._seen[rank] = (progress, math.inf)  # reported
            return True
        return False

    def forget(self, rank: int) -> None:
        """Reset worker ``rank``, which has ended or has a reason to wait."""
        self._seen.pop(rank, None)
