"""When a lost worker is replaced, and when no more."""

from __future__ import annotations

__all__ = ["Backoff"]

FIRST = 0.1  # s from the death of a worker that had made progress to its replacement's start
LONGEST = 5.0  # s


class Backoff:
    """The replacements of one worker: how many are left, and how soon the next one comes.

    A worker that dies again and again without progress in between is replaced ever later: after
    0.1 s, 0.2 s, 0.4 s, and so on up to 5 s. Progress begins that anew, but gives no further
    replacements.

    Args:
        restarts: replacements at most.
    """

    def __init__(self, restarts: int) -> None:
        self._left = restarts
        self._delay = 0.0

    def next(self, *, progress: bool) -> float | None:
        """Seconds until the worker that has just died is replaced; None: it is not.

        Args:
            progress: whether it had got on with its work before it died.
        """
        if self._left == 0:
            return None
        self._left -= 1
        self._delay = FIRST if progress or not self._delay else min(2 * self._delay, LONGEST)
        return self._delay
