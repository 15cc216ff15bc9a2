"""Windows: the batches of a worker between two pushes, which are done together."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from asyncopt.run.board import Board
from asyncopt.run.optimizers import SharedOptimizer

__all__ = ["Loop", "Windows"]

PATIENCE = 2.0  # s that a paused worker may continue, to end its window


class Loop:
    """A loop over batches.

    Attributes:
        number: the loop's round on the board.
        open: number of batches that were taken and are not done.
        pushes: the worker's number of pushes when the last batch was taken.
    """

    __slots__ = ("number", "open", "pushes")

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = 0
        self.pushes = 0


class Windows:
    """Decides when the batches of one worker are done.

    A batch is done when a push that followed it is in the store, or was skipped for a gradient that
    is not finite. With several optimizers it is done when each of them has pushed, or after a push
    of some of them, when the next batch is taken; the latter holds also for
    :meth:`~asyncopt.Optimizer.step_rows`, and for a loop around the one that the last batch came
    from. Without optimizers it is done when the next one is taken. A window that is open at the end
    of a loop stays open until the worker comes to another loop, or returns.

    Args:
        rank: the worker's.
        board: of the run.
        optimizers: the worker's own.

    Attributes:
        pushes: this worker's number of pushes.
    """

    def __init__(self, rank: int, board: Board, optimizers: Sequence[SharedOptimizer]) -> None:
        self._rank = rank
        self._board = board
        self._all = (1 << len(optimizers)) - 1
        self._stepped = 0  # a bit for each optimizer that has pushed since the last window's end
        self.pushes = 0
        self._usual = 0  # number of batches in the last window that a push ended
        self._latest: Loop | None = None
        self._over: list[tuple[int, bool]] = []  # loops that were left: number, left early
        self._delayed: float | None = None  # when this worker began to postpone a pause
        for bit, optimizer in enumerate(optimizers):
            optimizer.after_push = functools.partial(self._pushed, 1 << bit)

    def _pushed(self, bit: int, whole: bool) -> None:
        self.pushes += 1
        loop = self._latest
        if loop is not None and loop.open:
            if whole:
                self._stepped |= bit
            if self._stepped == self._all:
                self._usual, loop.open, self._stepped = loop.open, 0, 0
                self._board.finish(self._rank, loop.number)

    def keeps(self, loop: Loop) -> bool:
        """True if the open batches of ``loop`` stay open when the next one is taken."""
        self.leave()
        if not loop.open or not self._all:
            return False
        if loop.pushes != self.pushes:
            self._usual, loop.open, self._stepped = loop.open, 0, 0
            return False
        return True

    def took(self, loop: Loop) -> None:
        """Record that a batch of ``loop`` was taken."""
        loop.open += 1
        loop.pushes = self.pushes
        self._latest = loop

    def may_park(self, loop: Loop) -> bool:
        """True if a paused worker may park before its next batch of ``loop``.

        Within a window it may not, for at most ``PATIENCE``, until the window has as many batches
        as the last one: a resumed run repeats an open window with other random numbers.
        """
        if self.keeps(loop) and loop.open < self._usual:
            now = time.monotonic()
            if self._delayed is None:
                self._delayed = now
            if now < self._delayed + PATIENCE:
                return False
        self._delayed = None
        return True

    def end_loop(self, loop: Loop, *, early: bool) -> None:
        """Record that the worker has left ``loop``; ``early`` if before its end."""
        if early or loop.open:
            self._over.append((loop.number, early))

    def leave(self) -> None:
        """Mark the batches of loops that the worker left as done: it has continued after them."""
        while self._over:
            number, early = self._over.pop()
            (self._board.done if early else self._board.finish)(self._rank, number)
