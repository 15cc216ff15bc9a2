"""A pool of worker processes for tasks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from asyncopt.errors import RunTimeout, TaskError, WorkerError
from asyncopt.run.interrupts import Interrupts
from asyncopt.run.member import KILL_GRACE, dismiss
from asyncopt.run.outcome import format_traceback, stillborn
from asyncopt.run.plan import Plan
from asyncopt.tasks.pool_process import PoolPayload, PoolProcess
from asyncopt.warn import warn_caller

__all__ = ["Ending", "Pool"]

TICK = 0.25  # s between looks at exit codes, deadlines and the processors' use
EXIT_GRACE = 30.0  # s for a worker to exit by itself after its last task
LOST_IDLE = 5  # workers in a row that end before they begin the task they were given


@dataclass(frozen=True)
class Ending:
    """The end of a task.

    Attributes:
        value: what it returned.
        error: why it has none, with the worker's own exception as ``__cause__``.
        seconds: from its start in the worker to its end, in the last attempt.
        attempts: how often it was started.
        worker: rank of the worker that ended it.
    """

    value: Any
    error: TaskError | None
    seconds: float
    attempts: int
    worker: int


class Pool:
    """Runs every task once to its end, also if workers die.

    A task uses up a try when a worker calls its function. If a worker ends before that, for
    instance right after its last result, the task is assigned again and no try is counted.

    A worker takes one task after the other, unless tasks are isolated: then a process that has run
    one exits, and another one of the same rank takes the next.

    Args:
        payload: fn, tasks and data.
        count: number of tasks.
        plan: workers, their threads and processors, seconds for a task and for a start.
        retries: how often a task is started again after its worker died.
        on_end: called in this thread with a task's number and its ending as soon as that is known;
            what it raises ends the pool.
        tick: called in this thread at least every 0.25 s.
    """

    def __init__(
        self,
        payload: PoolPayload,
        count: int,
        plan: Plan,
        *,
        retries: int,
        on_end: Callable[[int, Ending], None],
        tick: Callable[[], None],
    ) -> None:
        self._parcel = payload
        self._plan = plan
        self._retries = retries
        self._on_end = on_end
        self._tick = tick
        self._waiting = deque(range(count))
        self._attempts = [0] * count
        self._members: dict[int, PoolProcess] = {}
        self._requeued = 0

    def run(self) -> None:
        """Return when every task has ended and every worker is gone.

        Raises:
            WorkerError: a worker could not start, or workers end before they begin a task.
            RunTimeout: a worker was not ready in time.
            TypeError: fn, tasks or data cannot be sent to a process.
        """
        with Interrupts() as interrupts:
            try:
                for rank in range(min(self._plan.workers, len(self._waiting))):
                    self._start(rank)
                while self._members:
                    self._wait(interrupts)
                    interrupts.check()
                    for member in list(self._members.values()):
                        self._serve(member)
                    self._tick()
            finally:
                dismiss(list(self._members.values()))

    def _start(self, rank: int) -> None:
        member = PoolProcess(rank, self._plan, self._parcel, time.monotonic())
        self._members[rank] = member
        member.start()

    def _wait(self, interrupts: Interrupts) -> None:
        members = self._members.values()
        nearest = min(map(self._deadline, members)) - time.monotonic()
        lines = [member.pipe for member in members if not member.hung_up]
        sentinels = [member.sentinel for member in members if member.sentinel is not None]
        wait([*lines, *sentinels, interrupts.fileno()], max(0.0, min(nearest, TICK)))

    def _deadline(self, member: PoolProcess) -> float:
        if member.index is not None:
            return member.since + self._plan.timeout
        return member.since + (EXIT_GRACE if member.ready else self._plan.start_timeout)

    def _serve(self, member: PoolProcess) -> None:
        """Take in what a worker has said, or that it is dead or late."""
        exitcode = member.exitcode  # looked at first: a dead worker's last words count
        for word, *rest in member.words():
            self._receive(member, word, *rest)
        if exitcode is not None:
            self._handle_exit(member, exitcode)
        elif time.monotonic() >= self._deadline(member):
            self._time_out(member)

    def _receive(self, member: PoolProcess, word: str, seconds: float = 0.0) -> None:
        is_new = not member.ready
        if word == "begun":
            assert member.index is not None
            member.begun = True
            self._attempts[member.index] += 1
            self._requeued = 0
            return
        if word == "failed":
            message, traceback, cause = member.failure()
            prefix = f"task {member.index}: " if member.ready else ""
            error = TaskError(prefix + message, member.index, member.rank, traceback)
            if not member.ready:
                raise error from cause
            self._fail(member, error, cause, seconds)
        elif word == "done":
            self._take(member, seconds)
        else:
            member.ready = True
        if is_new or not self._parcel.isolated:
            self._hand_out(member)
        else:
            self._dismiss(member)

    def _take(self, member: PoolProcess, seconds: float) -> None:
        """Fetch a result."""
        try:
            value = member.box.take()
        except Exception as problem:
            message = (
                f"task {member.index}: expected a result that unpickles, got "
                f"{type(problem).__name__}: {problem}"
            )
            text = format_traceback(problem)
            self._fail(
                member, TaskError(message, member.index, member.rank, text), problem, seconds
            )
        else:
            self._end_task(member, value, None, seconds)

    def _fail(
        self, member: PoolProcess, error: TaskError, cause: BaseException | None, seconds: float
    ) -> None:
        error.__cause__ = cause
        self._end_task(member, None, error, seconds)

    def _end_task(
        self, member: PoolProcess, value: Any, error: TaskError | None, seconds: float
    ) -> None:
        index, member.index = member.index, None
        assert index is not None
        self._on_end(index, Ending(value, error, seconds, self._attempts[index], member.rank))

    def _hand_out(self, member: PoolProcess) -> None:
        """Give a worker its next task; where there is none, let it go."""
        if self._waiting:
            member.since = time.monotonic()
            member.index, member.begun = self._waiting.popleft(), False
            member.send("run", member.index)
        else:
            self._dismiss(member)

    def _dismiss(self, member: PoolProcess) -> None:
        member.since = time.monotonic()
        member.send("leave")

    def _time_out(self, member: PoolProcess) -> None:
        """End a worker that is late, and with it its task."""
        member.kill()
        member.join(KILL_GRACE)
        if member.index is not None and not member.begun:
            limit = f"{self._plan.timeout:g} s"
            self._requeue(member, f"worker {member.rank} did not begin a task within {limit}")
        elif member.index is not None:
            message = (
                f"task {member.index}: did not end within {self._plan.timeout:g} s, and worker "
                f"{member.rank} was killed; raise timeout= if it can take longer"
            )
            error = TaskError(message, member.index, member.rank)
            seconds = time.monotonic() - member.since
            self._fail(member, error, RunTimeout(message, (member.rank,)), seconds)
        elif member.ready:
            warn_caller(
                f"worker {member.rank} ended its last task but did not exit within "
                f"{EXIT_GRACE:g} s and was killed (does fn leave a thread running?)"
            )
        else:
            raise RunTimeout(
                f"start_timeout: expected workers to start within {self._plan.start_timeout:g} s, "
                f"worker {member.rank} did not; raise start_timeout= if its imports take longer",
                (member.rank,),
            )
        self._replace(member)

    def _handle_exit(self, member: PoolProcess, exitcode: int) -> None:
        """A worker is dead: its task is started again, if it may be."""
        index = member.index
        message = stillborn(member.rank, exitcode, started=member.ready)
        if not member.ready:
            raise WorkerError(message, rank=member.rank)
        if index is not None and not member.begun:
            self._requeue(member, message)
        elif index is not None:
            attempts = self._attempts[index]
            if attempts <= self._retries:
                self._waiting.appendleft(index)
            else:
                times = "once" if attempts == 1 else f"{attempts} times"
                error = TaskError(f"task {index}: {message}; started {times}", index, member.rank)
                self._fail(member, error, None, time.monotonic() - member.since)
        self._replace(member)

    def _requeue(self, member: PoolProcess, message: str) -> None:
        """Requeue the task of a worker that ended before it began the task.

        Raises:
            WorkerError: this has happened ``LOST_IDLE`` times, and no task was begun in between.
        """
        assert member.index is not None
        self._requeued += 1
        if self._requeued >= LOST_IDLE:
            raise WorkerError(
                f"{message}; {LOST_IDLE} workers in a row ended before they began a task",
                rank=member.rank,
            )
        self._waiting.appendleft(member.index)

    def _replace(self, member: PoolProcess) -> None:
        """Another worker in place of a dead one, if there is work for it."""
        del self._members[member.rank]
        member.close()
        if self._waiting:
            self._start(member.rank)
