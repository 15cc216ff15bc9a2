"""Workers as processes: started together, watched, and all gone when the run is over."""

from __future__ import annotations

import contextlib
import pickle
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from asyncopt.errors import RunTimeout, WorkerError
from asyncopt.run.child import Job
from asyncopt.run.outcome import Failure, format_traceback, stillborn
from asyncopt.run.plan import Plan
from asyncopt.run.rendezvous import Rendezvous, spell_ranks
from asyncopt.run.spawn import Mailbox, Payload, WorkerProcess

__all__ = ["run_processes"]

TICK = 1.0  # s between looks at exit codes when no pipe or sentinel wakes the parent
EXIT_GRACE = 10.0  # s from the last return out of fn to the last exit
TERM_GRACE = 5.0  # s from SIGTERM to SIGKILL
KILL_GRACE = 10.0  # s for the kernel to clear a killed process away


def run_processes(
    fn: Callable[..., Any], args: tuple[Any, ...], plan: Plan
) -> tuple[list[Any], float]:
    """Run ``fn(worker, *args)`` in ``plan.workers`` spawned processes.

    Returns:
        The results in the order of ranks, and the seconds from the start barrier to the last
        return.

    Raises:
        WorkerError: a worker raised or died; the others have been ended.
        RunTimeout: a deadline of ``plan`` passed; all workers have been ended.
        TypeError: ``fn`` or one of ``args`` cannot be sent to a process.
    """
    crew = _Crew(Payload(fn, args), plan)
    try:
        crew.start()
        crew.release()
        crew.join()
        return crew.results(), crew.elapsed
    finally:
        crew.end()


@dataclass
class _Member:
    """One worker process and what is known of it."""

    rank: int
    process: WorkerProcess
    pipe: Connection[Any, Any]
    child_pipe: Connection[Any, Any]
    mailbox: Mailbox
    hung_up: bool = False
    ready: bool = False
    returned: float | None = None  # monotonic clock, s

    def send(self, *message: object) -> None:
        with contextlib.suppress(OSError):  # it died; its sentinel tells
            self.pipe.send(message)


class _Crew:
    """The processes of one run, in the order start, release, join; ``end`` from anywhere."""

    def __init__(self, payload: Payload, plan: Plan) -> None:
        self._plan = plan
        self._released = 0.0
        self._rendezvous = Rendezvous(plan.workers)
        self._members = [_member(rank, payload, plan) for rank in range(plan.workers)]

    def start(self) -> None:
        """Start all workers; return when each of them holds its arguments."""
        limit = self._plan.start_timeout
        deadline = time.monotonic() + limit
        for member in self._members:
            member.process.start()
            member.child_pipe.close()
        self._watch(
            lambda member: member.ready,
            deadline,
            f"start_timeout: expected all workers to start within {limit:g} s, {{}} did not; "
            f"raise start_timeout= if imports or arguments take longer",
        )

    def release(self) -> None:
        """Let all workers enter ``fn``."""
        self._released = time.monotonic()
        for member in self._members:
            member.send("go")

    def join(self) -> None:
        """Return when every worker has returned from ``fn`` and exited."""
        limit = self._plan.timeout
        self._watch(
            lambda member: member.returned is not None,
            self._released + limit,
            f"timeout: expected all workers to return within {limit:g} s, {{}} did not and "
            f"had to be ended; raise timeout= if that can take longer",
        )
        processes = [member.process for member in self._members]
        _join(processes, EXIT_GRACE)
        for member in self._members:
            exitcode = member.process.exitcode
            if exitcode != 0:
                warnings.warn(
                    f"worker {member.rank} returned from fn but then "
                    + (
                        f"did not exit within {EXIT_GRACE:g} s and is ended (does fn leave a "
                        f"thread or process running?)"
                        if exitcode is None
                        else f"exited with code {exitcode}"
                    ),
                    RuntimeWarning,
                    stacklevel=4,
                )

    @property
    def elapsed(self) -> float:
        """Seconds from the release to the last return, by the workers' own reading of the clock."""
        return max(member.returned or 0.0 for member in self._members) - self._released

    def results(self) -> list[Any]:
        """What ``fn`` returned in each worker."""
        results = []
        for member in self._members:
            try:
                results.append(member.mailbox.take())
            except Exception as error:
                raise WorkerError(
                    f"result of fn in worker {member.rank}: expected an object that unpickles, "
                    f"got {type(error).__name__}: {error}",
                    rank=member.rank,
                    traceback=format_traceback(error),
                ) from error
        return results

    def end(self) -> None:
        """Leave no process and no descriptor, however far the run got."""
        started = [m.process for m in self._members if m.process.pid is not None]
        alive = [process for process in started if process.exitcode is None]
        try:
            for process in alive:
                process.terminate()
            _join(alive, TERM_GRACE)
        finally:  # also when a second Ctrl-C cuts the grace short
            for process in alive:
                process.kill()
            _join(started, KILL_GRACE)
            for member in self._members:
                with contextlib.suppress(ValueError):  # not even SIGKILL ended it
                    member.process.close()
                member.pipe.close()
                member.child_pipe.close()
                member.mailbox.close()

    def _watch(self, done: Callable[[_Member], bool], deadline: float, complaint: str) -> None:
        """Serve the workers until all are ``done``; raise at the first failure or the deadline."""
        while late := [member for member in self._members if not done(member)]:
            now = time.monotonic()
            if now >= deadline:
                ranks = [member.rank for member in late]
                raise RunTimeout(complaint.format(spell_ranks(ranks)), tuple(ranks))
            running = [member for member in self._members if member.returned is None]
            pipes = [member.pipe for member in running if not member.hung_up]
            sentinels = [member.process.sentinel for member in running]
            wake = min(deadline, self._rendezvous.deadline, now + TICK)
            wait([*pipes, *sentinels], max(0.0, wake - now))
            failures = [failure for member in running if (failure := self._hear(member))]
            if failures:
                first = min(failures, key=lambda failure: failure.when)
                raise first.error() from first.cause
            for rank, problem in self._rendezvous.settle(time.monotonic()).items():
                self._members[rank].send("barrier", problem)

    def _hear(self, member: _Member) -> Failure | None:
        """Take in what a worker has said; its failure, if it failed or died."""
        exitcode = member.process.exitcode  # looked at first: a dead worker's last words count
        while not member.hung_up and member.pipe.poll():
            try:
                word, *rest = member.pipe.recv()
            except (EOFError, OSError):
                member.hung_up = True
                break
            if word == "ready":
                member.ready = True
            elif word == "barrier":
                self._rendezvous.arrive(member.rank, time.monotonic() + rest[0])
            elif word == "returned":
                member.returned = rest[0]
                self._rendezvous.leave(member.rank)
                return None
            elif word == "failed":
                return _failure(member, when=rest[0])
        if exitcode is None:
            return None
        message = stillborn(member.rank, exitcode, started=member.ready)
        return Failure(member.rank, message, "", None, when=time.monotonic())


def _member(rank: int, payload: Payload, plan: Plan) -> _Member:
    pipe, child_pipe = Pipe()
    mailbox = Mailbox()
    process = WorkerProcess(
        rank,
        Job(rank, plan.workers, plan.threads, plan.start_timeout, child_pipe, mailbox),
        environment={"OMP_NUM_THREADS": str(plan.threads)},
        cpus=plan.cpus(rank),
        before_exec=lambda: mailbox.put(payload.write),
    )
    return _Member(rank, process, pipe, child_pipe, mailbox)


def _failure(member: _Member, when: float) -> Failure:
    message, traceback, pickled = member.mailbox.take()
    cause = None
    if pickled is not None:
        with contextlib.suppress(Exception):  # its class may exist in the worker only
            cause = pickle.loads(pickled)
    return Failure(member.rank, message, traceback, cause, when)


def _join(processes: list[WorkerProcess], grace: float) -> None:
    deadline = time.monotonic() + grace
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
