"""When a lost worker is replaced, and when no more."""

from __future__ import annotations

__all__ = ["Backoff"]

FIRST = 0.1  # s from the death of a worker that had made progress to its replacement's start
LONGEST = 5.0  # s


class Backoff:
    """Exponential backoff for the replacements of one worker, with a limit on their number.

    The delay is 0.1 s and doubles with each death without progress, up to 5 s. Progress resets the
    delay, but not the number of replacements left.

    Args:
        restarts: maximum number of replacements.
    """

    def __init__(self, restarts: int) -> None:
        self._left = restarts
        self._delay = 0.0

    def next(self, *, progress: bool) -> float | None:
        """Seconds until the worker that just died is replaced; None if none are left.

        Args:
            progress: whether the worker made progress before it died.
        """
        if self._left == 0:
            return None
        self._left -= 1
        self._delay = FIRST if progress or not self._delay else min(2 * self._delay, LONGEST)
        return self._delay
