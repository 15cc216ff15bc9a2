"""What watches a run from the launching process: checkpoints, views, records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from asyncopt.optim.reach import Trained
from asyncopt.run.board import Board
from asyncopt.run.optimizers import SharedOptimizer
from asyncopt.run.transfers import TransferLog
from asyncopt.warn import warn_caller

__all__ = ["Observer", "Observers", "RunView"]


@dataclass(frozen=True)
class RunView:
    """What an observer sees of a run.

    Attributes:
        board: what workers show of themselves.
        optimizers: the shared optimizers.
        trained: what the run trains.
        workers: number of workers.
        process_ids: the workers' process ids in the order of ranks; None where none lives.
        restarts: how often each worker was replaced.
        elapsed: seconds since the start barrier; 0 before.
        at_barrier: the ranks that wait at a barrier.
        transfers: what workers with devices did beside computing; None without devices.
    """

    board: Board
    optimizers: list[SharedOptimizer]
    trained: Trained
    workers: int
    process_ids: Callable[[], list[int | None]]
    restarts: Callable[[], list[int]]
    elapsed: Callable[[], float]
    at_barrier: Callable[[], set[int]] = set
    transfers: TransferLog | None = None


class Observer(Protocol):
    """Something that watches a run.

    It is called in the thread that called ``launch``, between looks at the workers: what it does is
    to be short.
    """

    @property
    def interval(self) -> float:
        """Seconds between ticks; asked for after each."""

    def start(self, view: RunView) -> None:
        """Called once, before the first worker is started. What it raises ends the run."""

    def tick(self, now: float) -> None:
        """Called every ``interval`` seconds from the start barrier on.

        What it raises becomes a warning, and the run goes on.

        Args:
            now: seconds of the monotonic clock.
        """

    def end(self, error: BaseException | None) -> None:
        """Called once, when no worker lives any more.

        Args:
            error: what ended the run before its time; None if all is well.
        """


class Observers:
    """The observers of one run, called when they are due."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers
        self._started: list[Observer] = []
        self._due: dict[int, float] = {}

    @property
    def due(self) -> float:
        """When the next tick is due on the monotonic clock; infinite if there is none."""
        return min(self._due.values(), default=math.inf)

    def start(self, view: RunView) -> None:
        """Start all."""
        for observer in self._observers:
            self._started.append(observer)
            observer.start(view)

    def release(self, now: float) -> None:
        """The workers have passed the start barrier: ticks begin."""
        self._due = {i: now + each.interval for i, each in enumerate(self._started)}

    def tick(self, now: float) -> None:
        """Call those that are due."""
        for i in [i for i, due in self._due.items() if due <= now]:
            observer = self._started[i]
            try:
                observer.tick(now)
            except Exception as error:
                name = type(observer).__name__
                warn_caller(f"{name} failed and goes on: {type(error).__name__}: {error}")
            self._due[i] = now + observer.interval

    def end(self, error: BaseException | None) -> None:
        """End all that were started.

        Raises:
            Exception: what the first of them raised, if the run was well until then; else it
                becomes a note on ``error``.
        """
        self._due.clear()
        first: BaseException | None = None
        while self._started:
            observer = self._started.pop(0)
            try:
                observer.end(error)
            except Exception as problem:
                if error is None:
                    first = error = problem
                else:
                    name = type(observer).__name__
                    error.add_note(f"{name} failed: {type(problem).__name__}: {problem}")
        if first is not None:
            raise first
