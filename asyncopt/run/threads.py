"""Workers as threads of this process."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from asyncopt.errors import RunTimeout
from asyncopt.run.optimizers import find_optimizers, leave_stores
from asyncopt.run.outcome import Failure, describe, format_traceback
from asyncopt.run.plan import Plan
from asyncopt.run.rendezvous import Rendezvous, spell_ranks
from asyncopt.run.worker import Worker

__all__ = ["run_threads"]

TICK = 1.0  # s between looks at pending signals: only a signal to the very main thread wakes it
STOP_GRACE = 5.0  # s for threads to notice that the run is over


class _Stop(SystemExit):
    """Raised inside the threads of a run that is over; ``except Exception`` lets it pass."""


def run_threads(
    fn: Callable[..., Any], copies: list[tuple[Any, ...]], plan: Plan
) -> tuple[list[Any], float]:
    """Run ``fn(worker, *copies[rank])`` in one thread per copy.

    torch's thread count is a setting of the whole process: it is ``plan.threads`` during the run
    and again what it was when the run is over. A thread cannot be killed: those that are to stop
    get an exception at their next Python instruction, and one that stays in native code beyond a
    grace of 5 s is left behind as a daemon thread, which a note on the raised exception says.

    Returns:
        The results in the order of ranks, and the seconds from the start barrier to the last
        return.

    Raises:
        WorkerError: a worker raised; the others have been told to stop.
        RunTimeout: a deadline of ``plan`` passed; all workers have been told to stop.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(plan.threads)
    crew = _Crew(fn, copies, plan)
    try:
        crew.start()
        crew.release()
        crew.join()
        return crew.results, crew.elapsed
    except BaseException as error:
        if stuck := crew.stop():
            error.add_note(
                f"{spell_ranks(stuck)} did not stop within {STOP_GRACE:g} s and "
                f"still run as daemon threads"
            )
        raise
    finally:
        torch.set_num_threads(before)


class _Crew:
    """The threads of one run, in the order start, release, join; ``stop`` from anywhere.

    ``_changed`` guards every attribute that the threads write, and is notified of every change.
    """

    def __init__(self, fn: Callable[..., Any], copies: list[tuple[Any, ...]], plan: Plan) -> None:
        self._fn = fn
        self._plan = plan
        self._changed = threading.Condition()
        self._rendezvous = Rendezvous(plan.workers)
        self._answers: dict[int, str] = {}
        self._parked: set[int] = set()  # ranks that wait here and look at _stopping themselves
        self._stopping = False
        self._released = math.nan  # monotonic clock, s
        self._returned: dict[int, float] = {}
        self._failures: list[Failure] = []
        self.results: list[Any] = [None] * plan.workers
        self._threads = [
            threading.Thread(
                target=self._live,
                args=(rank, copy),
                name=f"asyncopt-worker-{rank}",
                daemon=True,  # one that never stops must not keep the interpreter from exiting
            )
            for rank, copy in enumerate(copies)
        ]

    @property
    def elapsed(self) -> float:
        """Seconds from the release to the last return."""
        return max(self._returned.values()) - self._released

    def start(self) -> None:
        """Start all threads; return when they stand at the start barrier."""
        limit = self._plan.start_timeout
        deadline = time.monotonic() + limit
        for thread in self._threads:
            thread.start()
        self._watch(
            self._parked,
            deadline,
            f"start_timeout: expected all workers to start within {limit:g} s, {{}} did not; "
            f"raise start_timeout=",
        )

    def release(self) -> None:
        """Let all threads enter ``fn``."""
        with self._changed:
            self._released = time.monotonic()
            self._changed.notify_all()

    def join(self) -> None:
        """Return when every thread has returned from ``fn`` and ended."""
        limit = self._plan.timeout
        self._watch(
            self._returned,
            self._released + limit,
            f"timeout: expected all workers to return within {limit:g} s, {{}} did not and "
            f"had to be stopped; raise timeout= if that can take longer",
        )
        for thread in self._threads:
            thread.join(STOP_GRACE)

    def stop(self) -> list[int]:
        """Ask all threads to end and wait for them; the ranks of those that do not."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            for rank, thread in enumerate(self._threads):
                if thread.is_alive() and rank not in self._parked:
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(_Stop)
                    )
        deadline = time.monotonic() + STOP_GRACE
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return [rank for rank, thread in enumerate(self._threads) if thread.is_alive()]

    def _watch(self, arrived: set[int] | dict[int, float], deadline: float, complaint: str) -> None:
        """Wait until all ranks have ``arrived``; raise at the first failure or the deadline."""
        with self._changed:
            while late := [rank for rank in range(self._plan.workers) if rank not in arrived]:
                if self._failures:
                    first = min(self._failures, key=lambda failure: failure.when)
                    raise first.error() from first.cause
                patience = deadline - time.monotonic()
                if patience <= 0:
                    raise RunTimeout(complaint.format(spell_ranks(late)), tuple(late))
                self._changed.wait(min(patience, TICK))

    def _live(self, rank: int, args: tuple[Any, ...]) -> None:
        """The life of one thread: its work, and the end of its claim on the stores."""
        optimizers = find_optimizers(args)
        try:
            self._work(rank, args)
        finally:
            leave_stores(optimizers)

    def _work(self, rank: int, args: tuple[Any, ...]) -> None:
        """Run ``fn`` between the start barrier and the report of what came of it."""
        try:
            if cpus := self._plan.cpus(rank):
                os.sched_setaffinity(0, cpus)  # 0 is the calling thread, not the process
            self._stand_by(rank)
            worker = Worker(rank, self._plan.workers, lambda timeout: self._meet(rank, timeout))
            result = self._fn(worker, *args)
            returned = time.monotonic()
        except _Stop:
            return
        except BaseException as error:
            text = format_traceback(error, skip=1)
            failure = Failure(rank, describe(rank, error), text, error, when=time.monotonic())
            with self._changed:
                self._failures.append(failure)
                self._changed.notify_all()
        else:
            with self._changed:
                self.results[rank] = result
                self._returned[rank] = returned
                self._rendezvous.leave(rank)
                self._changed.notify_all()

    def _stand_by(self, rank: int) -> None:
        """The start barrier."""
        with self._changed:
            self._park(rank, lambda: not math.isnan(self._released), math.inf)

    def _meet(self, rank: int, timeout: float) -> None:
        """``Worker.barrier``: each waiting thread settles the rendezvous when it wakes."""

        def answered() -> bool:
            for other, problem in self._rendezvous.settle(time.monotonic()).items():
                self._answers[other] = problem
                self._changed.notify_all()
            return rank in self._answers

        with self._changed:
            deadline = time.monotonic() + timeout
            self._rendezvous.arrive(rank, deadline)
            self._park(rank, answered, deadline)
            problem = self._answers.pop(rank)
        if problem:
            raise RunTimeout(problem)

    def _park(self, rank: int, done: Callable[[], bool], deadline: float) -> None:
        """Wait for ``done()``, looking again at ``deadline``; holds ``_changed``."""
        self._parked.add(rank)
        self._changed.notify_all()
        try:
            while not self._stopping and not done():
                patience = max(0.0, deadline - time.monotonic())
                self._changed.wait(min(patience, threading.TIMEOUT_MAX))
            if self._stopping:  # also if done: stop() relies on parked threads to end by themselves
                raise _Stop
        finally:
            self._parked.discard(rank)
