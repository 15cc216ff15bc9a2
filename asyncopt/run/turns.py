"""A worker's turns: from a pull to the pushes of what was computed with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from asyncopt.optim.registered import Registered
from asyncopt.run.board import Board
from asyncopt.run.delays import Delay
from asyncopt.run.optimizers import SharedOptimizer

if TYPE_CHECKING:
    from asyncopt.devices import Station

__all__ = ["Turns"]

PATIENCE = 600.0  # s that a worker waits for its turn before it gives up
NAP = 0.5  # longest sleep in s, so that this thread can be interrupted


class Turns:
    """Turns of one worker, each in the order rest, begin, pull, pushes, end.

    Args:
        rank: the worker's.
        board: of the run.
        optimizers: the worker's own; this object hooks their pushes.
        max_staleness: turns of others that may end between a pull and its push; None: any.
        delay: injected before the first push of each turn.
        station: the worker's device, if it has one. Under a bound a turn ends when its pushes are
            in the stores, and no push is in progress when a checkpoint may be taken.
        registered: parameters and buffers that the worker's modules have registered.
    """

    def __init__(
        self,
        rank: int,
        board: Board,
        optimizers: Sequence[SharedOptimizer],
        max_staleness: int | None,
        delay: Delay | None,
        station: Station | None = None,
        registered: Registered | None = None,
    ) -> None:
        self.on_park: Callable[[], None] | None = None  # called before parking
        self.are_bounded = max_staleness is not None
        self.are_serial = max_staleness == 0
        self._rank = rank
        self._board = board
        self._optimizers = optimizers
        self._in_place = [optimizer for optimizer in optimizers if not optimizer.is_replica]
        self._max_staleness = max_staleness
        self._delay = delay
        self._station = station
        self._registered = Registered(()) if registered is None else registered
        self._number = board.seat(rank)["progress"] - 1  # its predecessors' turns count
        self._open = False
        self._pulled_at = time.monotonic()
        self._delayed = False
        self._outdated = True  # others may have pushed since the replicas were last refreshed
        self._retired = False
        for optimizer in optimizers:
            optimizer.before_push = self._before_push
            optimizer.after_partial_push = self._registered.check

    def rest(self, may_park: Callable[[], bool] = lambda: True) -> None:
        """End a turn without starting the next: count progress, and park if the run is paused.

        Args:
            may_park: called before parking; False postpones it.
        """
        self.end()
        self._board.beat(self._rank)
        if self._board.paused and may_park():
            self.stand()
            self._board.park(self._rank, PATIENCE)

    def stand(self) -> None:
        """Suspend the turn, so that others continue and a checkpoint may be taken."""
        self.share()
        self.end()
        self._board.mark(self._rank, "wait")
        self._outdated = True
        if self.on_park is not None:
            self.on_park()

    def share(self) -> None:
        """Make all pushes and writes of this worker visible to the others.

        Raises:
            ValueError: a parameter or buffer was replaced by one that cannot be shared.
        """
        self._registered.keep_buffers()
        self._registered.check()
        for optimizer in self._optimizers:
            optimizer.flush()
        if self._station is not None:
            self._station.rest()

    def begin(self) -> None:
        """Open a turn, unless one is open, as soon as ``max_staleness`` permits."""
        if self._open:
            return
        if self.are_bounded:
            self._board.mark(self._rank, "wait")
            self._board.begin(self._rank, self._max_staleness, PATIENCE)
        self._open = True
        self._number += 1
        self._delayed = False

    def pull(self, everything: bool = False) -> None:
        """Refresh replicas, so that the next gradient is computed from the stores' current values.

        Args:
            everything: refresh replicas even if their last push did, and nothing was waited for
                since.
        """
        self._board.mark(self._rank, "pull")
        everything = everything or self._outdated or self.are_bounded
        for optimizer in self._optimizers if everything else self._in_place:
            optimizer.pull()
        self._outdated = False
        self._pulled_at = time.monotonic()
        self._board.mark(self._rank, "compute")

    def end(self) -> None:
        """End the turn, if one is open."""
        if self._open and self.are_bounded and not self._retired:
            try:
                if self._station is not None:
                    self._station.flush()
            finally:
                self._board.end(self._rank)
        self._open = False

    def retire(self) -> None:
        """End the last turn. A replacement may take the seat next; its turns must not be ended."""
        self.end()
        self._retired = True

    def _before_push(self) -> None:
        self._registered.keep_buffers()
        if self._delay is not None and not (self._open and self._delayed):
            self._sleep(self._delay)
        if self.are_bounded:
            if not self._open:
                raise RuntimeError(
                    "max_staleness: expected a push of what was computed after a pull, got one "
                    "outside of any turn; take batches from worker.batches, or call worker.pull() "
                    "before each forward pass"
                )
            self._board.mark(self._rank, "wait")
            self._board.admit(self._rank, PATIENCE)
        self._board.mark(self._rank, "push")

    def _sleep(self, delay: Delay) -> None:
        self._delayed = True
        number = max(0, self._number)
        delay.took(self._rank, number, time.monotonic() - self._pulled_at)
        end = time.monotonic() + delay.seconds(self._rank, number)
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, NAP))
