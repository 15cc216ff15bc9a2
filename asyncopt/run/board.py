"""The board: shared memory for coordination between the workers of a run and their launcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from multiprocessing.context import get_spawning_popen
from typing import Any, TypeVar

import torch

from asyncopt import _core
from asyncopt.errors import RunTimeout, SegmentError
from asyncopt.run.rendezvous import spell_ranks
from asyncopt.store.memory import map_new_memfd

__all__ = ["PHASES", "Board"]

#: The phases of a worker: see :meth:`Board.mark`.
PHASES = _core.PHASES

_INDEX = {phase: index for index, phase in enumerate(PHASES)}
_SLICE = 0.05  # s of native waiting between checks for Python signals

_T = TypeVar("_T")


class Board:
    """Shared state of a run: claims of batches, turns, and progress of each worker.

    Each rank has a seat, which its worker takes with its first call. Workers may be killed at any
    instant: a replacement takes over the seat and its predecessor's batch. The launcher calls
    :meth:`leave` after a worker's death, before it starts a replacement.

    A worker's loop over batches calls, in this order::

        end             the last turn is over
        park            if paused
        take            (or take_static) the next batch; -1 ends the loop
        begin           the turn; then the worker pulls
        admit           before each push
        finish          the batches before the push are done

    Args:
        workers: number of seats.

    Raises:
        ValueError: `workers` is out of range.
        SegmentError: the memory cannot be had.
    """

    def __init__(self, workers: int) -> None:
        if not 1 <= workers <= _core.MAX_WORKERS:
            raise ValueError(f"workers: expected 1 to {_core.MAX_WORKERS}, got {workers}")
        nbytes = _core.Board.bytes_needed(workers)
        self._memory = map_new_memfd(nbytes)
        self._core = _core.Board.create(self._memory.data_ptr(), nbytes, workers, self._memory)

    @classmethod
    def attach(cls, memory: torch.Tensor) -> Board:
        """The board that another process made.

        Args:
            memory: uint8, the whole mapped block.

        Raises:
            SegmentError: it is no board, or of another build or PID namespace.
        """
        board = cls.__new__(cls)
        board._memory = memory
        board._core = _core.Board.attach(memory.data_ptr(), memory.numel(), memory)
        return board

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            raise SegmentError(
                "board: it can be sent only to a process that is being spawned; make one per run"
            )
        return Board.attach, (self._memory,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Board:
        return self

    def __repr__(self) -> str:
        return f"Board({self.workers})"

    @property
    def workers(self) -> int:
        """Number of seats."""
        return self._core.workers

    # --- dispenser

    def take(self, rank: int, round: int, total: int, keep: bool = False) -> int:
        """The next batch for this worker, from what all workers share.

        Batches of a dead worker of this rank come first, then those of abandoned ranks, then new
        ones. Every batch is handed out at least once, and exactly once if no worker dies. Up to 64
        rounds are open at once; for a worker more than 64 rounds behind the first, its round ends.

        Args:
            rank: the worker.
            round: number of the loop over batches, from 0, the same in every worker.
            total: batches in the round known so far; it may grow between calls.
            keep: the earlier batches are not done: a replacement gets them, until :meth:`finish`. A
                worker keeps at most 1,024; the next one marks the earlier ones as done.

        Returns:
            An index below `total`, or -1 if none is left.

        Raises:
            ValueError: `rank`, `round` or `total` is out of range.
        """
        return self._core.take(rank, round, total, keep)

    def take_static(
        self, rank: int, round: int, total: int, world_size: int, keep: bool = False
    ) -> int:
        """The next batch of this worker's own share: `rank`, `rank + world_size`, ...

        A replacement continues with the batches that its predecessor had not finished. Arguments
        and result are those of :meth:`take`.
        """
        return self._core.take_static(rank, round, total, world_size, keep)

    def finish(self, rank: int, round: int) -> None:
        """Mark the worker's batches of this round as done: no replacement or resume repeats them.

        The next `take` does the same unless `keep` is true.
        """
        self._core.finish(rank, round)

    def done(self, rank: int, round: int) -> None:
        """The worker has left this round before its end."""
        self._core.done(rank, round)

    def agree(self, round: int, epoch: int, digest: int) -> bool:
        """Compare the order of an epoch's examples with that of the other workers.

        Args:
            round: the loop.
            epoch: of the loop.
            digest: of the order, 32 bits.

        Returns:
            False if another worker has come to the epoch with another digest. Digests of the last 6
            epochs are kept; a worker that is further behind is not compared.
        """
        return self._core.agree(round, epoch, digest)

    def least(self, round: int, ranks: Collection[int] | None) -> int:
        """The least index of a round that a worker has or may still be given.

        Args:
            round: the loop.
            ranks: the workers, under static dispatch; None: all, under dynamic dispatch.
        """
        positions: Any = self._core.positions()
        claims = [(rank, state, i) for rank, of, state, i in positions["claims"] if of == round]
        if ranks is None:
            held = [i for _, state, i in claims if state == "held"]
            return int(min([dict(positions["rounds"]).get(round, 0), *held]))
        left = {rank for rank, state, _ in claims if state == "left"}
        new = [0 for rank in ranks if rank not in {rank for rank, _, _ in claims}]
        some = [i + (state == "done") for rank, state, i in claims if rank in set(ranks) - left]
        return int(min(new + some, default=0))

    def abandon(self, rank: int) -> None:
        """Called by the launcher: the worker died for good, so others may take its batches."""
        self._core.abandon(rank)

    def positions(self) -> _core.Positions:
        """Positions of the rounds, as JSON data; exact while all workers are parked."""
        return self._core.positions()

    def restore(self, positions: _core.Positions) -> None:
        """Go on from `positions`, on a board that no worker has used.

        Finished batches are skipped: a worker whose rounds are over gets -1 at once, and batches
        that were not finished are repeated first.

        Raises:
            ValueError: `positions` is malformed or of a run with another number of workers, or the
                board has been used.
        """
        self._core.restore(positions)

    # --- gate

    def begin(self, rank: int, max_staleness: int | None = None, timeout: float = 60.0) -> int:
        """Open a turn: wait until the worker may pull.

        Between a worker's pull and its push, at most `max_staleness` turns of others that push
        end. 0 admits one worker at a time. Turns begin in the order of the requests. An open turn
        is ended first.

        Args:
            rank: the worker.
            max_staleness: in turns, the same for all workers; None: never wait.
            timeout: seconds.

        Returns:
            The number of turns of the run with a push that have ended.

        Raises:
            RunTimeout: the turn could not begin in time.
        """
        try:
            return self._wait(
                rank,
                timeout,
                "its turn",
                lambda patience: self._core.begin(rank, max_staleness, patience),
            )
        except BaseException:
            self._core.end(rank)  # others need not queue behind it
            raise

    def admit(self, rank: int, timeout: float = 60.0) -> None:
        """Wait until the worker may push in its turn; at once outside of turns.

        Raises:
            RunTimeout: the worker was not admitted within `timeout` seconds.
        """
        self._wait(
            rank,
            timeout,
            "its push",
            lambda patience: self._core.admit(rank, patience) or None,
        )

    def end(self, rank: int) -> None:
        """End the worker's turn, if one is open."""
        self._core.end(rank)

    def leave(self, rank: int) -> None:
        """Called by the launcher after a worker's death: end its turn and free its seat."""
        self._core.leave(rank)

    @property
    def turns(self) -> int:
        """Turns of the run with a push that have ended."""
        return self._core.turns

    # --- pause

    def pause(self) -> None:
        """Ask all workers to park before their next batch."""
        self._core.pause()

    def resume(self) -> None:
        """Resume parked workers."""
        self._core.resume()

    @property
    def paused(self) -> bool:
        """True if workers are asked to park."""
        return self._core.paused

    def park(self, rank: int, timeout: float = 600.0) -> None:
        """Wait until the run is not paused. Call it when the worker's earlier changes are complete.

        Raises:
            RunTimeout: it is still paused after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._core.park(rank, min(_SLICE, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise RunTimeout(f"pause: expected it to end within {timeout:g} s, it did not")

    @property
    def parked(self) -> list[int]:
        """The ranks that wait in :meth:`park`."""
        return self._core.parked

    # --- seats

    def beat(self, rank: int) -> None:
        """Count progress: the worker has reached another batch or barrier."""
        self._core.beat(rank)

    def log(self, rank: int, loss: float) -> None:
        """Publish the worker's latest loss."""
        self._core.log(rank, loss)

    def mark(self, rank: int, phase: str, ns: int | None = None) -> None:
        """The worker enters a phase; the last 4096 such events of a seat are kept.

        Args:
            rank: the worker.
            phase: one of :data:`PHASES`.
            ns: when, on the clock of ``time.monotonic_ns()``; default: now.

        Raises:
            ValueError: `phase` is not one of :data:`PHASES`.
        """
        index = _INDEX.get(phase)
        if index is None:
            raise ValueError(f"phase: expected one of {', '.join(PHASES)}; got {phase!r}")
        self._core.mark(rank, index, ns)

    def seat(self, rank: int) -> _core.SeatInfo:
        """Published state of one worker.

        Returns:
            `pid` (0 if the seat is free), `incarnation` (number of workers so far), `progress`
            (beats of all of them), `loss` (NaN before the first), `phase`.
        """
        return self._core.seat(rank)

    def events(self, rank: int, after: int = 0) -> tuple[list[tuple[int, int, str]], int]:
        """The phases that a worker entered.

        Args:
            rank: the worker.
            after: the last sequence number seen; they start at 1.

        Returns:
            `(sequence, time.monotonic_ns(), phase)` of each later event that is still kept, and the
            number of later events that are not.
        """
        return self._core.events(rank, after)

    def _wait(
        self, rank: int, timeout: float, what: str, attempt: Callable[[float], _T | None]
    ) -> _T:
        """The result of `attempt`, which takes the seconds to wait and returns None if too few."""
        deadline = time.monotonic() + timeout
        while True:
            result = attempt(min(_SLICE, deadline - time.monotonic()))
            if result is not None:
                return result
            if time.monotonic() >= deadline:
                ahead = [other for other in self._core.in_turn if other != rank]
                reason = f"{spell_ranks(ahead)} had not ended theirs" if ahead else "nobody moved"
                raise RunTimeout(
                    f"max_staleness: worker {rank} waited {timeout:g} s for {what}, but {reason}; "
                    f"resume or end what holds the run up, or raise timeout=",
                    tuple(ahead),
                )
