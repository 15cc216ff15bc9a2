"""Observers of a run in the launching process: checkpoints, views, records, loggers."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from asyncopt.optim.reach import Trained
from asyncopt.run.board import Board
from asyncopt.run.optimizers import SharedOptimizer
from asyncopt.run.outcome import Loss
from asyncopt.run.transfers import TransferLog
from asyncopt.warn import warn_caller

__all__ = ["Observer", "Observers", "RunView", "check_observers"]


@dataclass(frozen=True)
class RunView:
    """The view of a run that its observers receive.

    Attributes:
        board: progress and state that the workers publish.
        optimizers: the shared optimizers.
        trained: the optimizers, modules and schedulers that the run trains.
        workers: number of workers.
        process_ids: the workers' process ids in the order of ranks; None for a rank without one.
        restarts: how often each worker was replaced.
        elapsed: seconds since the start barrier; 0 before.
        at_barrier: the ranks that wait at a barrier.
        transfers: transfers of workers with devices; None without devices.
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


class Observer:
    """Base class of observers, which ``launch(observers=[...])`` calls during a run.

    Override the methods that you need; those of this class do nothing. All are called in the thread
    that called ``launch``, between checks of the workers. They delay the supervision of the run,
    not the workers: move work of more than about 10 ms to your own thread.

    ``asyncopt.Metrics`` turns a run into scalars for a logger.

    Attributes:
        interval: seconds between ticks, 1 by default; read again after each tick.
    """

    interval: float = 1.0

    def start(self, run: RunView) -> None:
        """Called once, before the first worker starts; after ``resume=True`` has restored values.

        An exception ends the run, and `launch` raises it.
        """

    def tick(self, now: float) -> None:
        """Called every ``interval`` seconds from the start barrier on.

        An exception becomes a RuntimeWarning, and the run continues.

        Args:
            now: seconds of the monotonic clock.
        """

    def loss(self, loss: Loss) -> None:
        """Called when a worker is lost and the run continues, before the worker is replaced.

        An exception becomes a RuntimeWarning, and the run continues.
        """

    def end(self, error: BaseException | None) -> None:
        """Called once, when all workers have ended.

        An exception is raised by `launch` if the run succeeded; else it becomes a note on
        ``error``.

        Args:
            error: the exception that ended the run; None if it succeeded.
        """


def check_observers(observers: Iterable[Observer]) -> list[Observer]:
    """The user's observers as a list.

    Raises:
        TypeError: one of them is not an observer.
    """
    if not isinstance(observers, Iterable):
        raise TypeError(
            f"observers: expected a list of asyncopt.Observer, got {type(observers).__name__}; for "
            "a single one write observers=[observer]"
        )
    given = list(observers)
    for place, observer in enumerate(given):
        if not isinstance(observer, Observer):
            what = observer.__name__ if isinstance(observer, type) else type(observer).__name__
            remedy = f"make one: {what}()" if isinstance(observer, type) else "derive its class"
            raise TypeError(
                f"observers[{place}]: expected an instance of asyncopt.Observer, got {what}; "
                f"{remedy}" + ("" if isinstance(observer, type) else " from asyncopt.Observer")
            )
    return given


class Observers:
    """The observers of one run and the times of their ticks."""

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
        """Start the ticks: the workers have passed the start barrier."""
        self._due = {i: now + each.interval for i, each in enumerate(self._started)}

    def tick(self, now: float) -> None:
        """Call the observers whose tick is due."""
        for i in [i for i, due in self._due.items() if due <= now]:
            observer = self._started[i]
            with _as_warning(observer):
                observer.tick(now)
            self._due[i] = now + observer.interval

    def loss(self, loss: Loss) -> None:
        """Report a loss to all."""
        for observer in self._started:
            with _as_warning(observer):
                observer.loss(loss)

    def end(self, error: BaseException | None) -> None:
        """End all that were started.

        Raises:
            Exception: the first exception of an observer, if the run succeeded; otherwise it
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


@contextlib.contextmanager
def _as_warning(observer: Observer) -> Iterator[None]:
    """Context whose exceptions become warnings."""
    try:
        yield
    except Exception as error:
        name = type(observer).__name__
        warn_caller(f"{name} failed and goes on: {type(error).__name__}: {error}")
