"""Supervision of a run's workers: messages, deadlines, losses and replacements."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from asyncopt.errors import RunTimeout, WorkerError
from asyncopt.run.backoff import Backoff
from asyncopt.run.entry import WorkerTask
from asyncopt.run.interrupts import Interrupts
from asyncopt.run.losses import Losses
from asyncopt.run.member import KILL_GRACE, Member, dismiss, join
from asyncopt.run.observe import Observer, Observers, RunView
from asyncopt.run.optimizers import SharedOptimizer
from asyncopt.run.outcome import Failure, Outcome, format_traceback, stillborn
from asyncopt.run.rank_state import RankState
from asyncopt.run.rendezvous import Rendezvous, spell_ranks
from asyncopt.run.stalls import Stalls, state_of
from asyncopt.warn import warn_caller

__all__ = ["supervise"]

TICK = 1.0  # s between checks when no event wakes the launcher
BUSY_TICK = 0.02  # s between polls of state that has no wake-up
EXIT_GRACE = 30.0  # s from the last return out of fn to the last exit
FAILED_GRACE = 1.0  # s for a worker that reported a failure to exit before it is replaced
PARK_GRACE = 5.0  # s for the workers to reach the end of a batch before the last checkpoint


def supervise(
    make_member: Callable[[int, WorkerTask, int], Member],
    task: WorkerTask,
    optimizers: list[SharedOptimizer],
    observers: Sequence[Observer],
) -> Outcome:
    """Run the task in as many workers as its plan says, and wait for all of them.

    Args:
        make_member: makes a worker from its rank, the task and the number of earlier workers of
            that rank; called again for each replacement.
        task: the task of every worker.
        optimizers: the shared optimizers that the task trains.
        observers: called during the run.

    Raises:
        WorkerError: a worker ended before ``fn`` returned, and the plan does not let the run
            continue without it, or no worker is left. All have been ended.
        RunTimeout: a deadline of the plan passed. All have been ended.
        TypeError: ``fn`` or one of ``args`` cannot be sent to a process.
    """
    return _Supervisor(make_member, task, optimizers, observers).run()


class _Supervisor:
    """A run in three steps: start, release, join."""

    def __init__(
        self,
        make_member: Callable[[int, WorkerTask, int], Member],
        task: WorkerTask,
        optimizers: list[SharedOptimizer],
        observers: Sequence[Observer],
    ) -> None:
        self._make_member = make_member
        self._task = task
        self._plan = plan = task.plan
        self._board = task.board
        restarts = plan.retries if plan.on_error == "restart" else 0
        self._ranks = [RankState(rank, Backoff(restarts)) for rank in range(plan.workers)]
        self._rendezvous = Rendezvous(plan.workers)
        self._stalls = Stalls(plan.stall_timeout)
        self._losses = Losses(optimizers)
        self._observers = Observers(observers)
        self._interrupts = Interrupts()
        self._released: float | None = None
        self._view = RunView(
            board=task.board,
            optimizers=optimizers,
            trained=task.trained,
            workers=plan.workers,
            process_ids=lambda: [
                state.member.process_id if state.member is not None else None
                for state in self._ranks
            ],
            restarts=lambda: [state.restarts for state in self._ranks],
            at_barrier=lambda: self._rendezvous.waiting,
            transfers=task.transfers,
            elapsed=lambda: 0.0 if self._released is None else time.monotonic() - self._released,
        )

    def run(self) -> Outcome:
        """Run to the end; on return or exception, no worker or descriptor is left."""
        with self._interrupts:
            error: BaseException | None = None
            try:
                self._observers.start(self._view)
                self._start()
                self._release()
                self._join()
                return self._outcome()
            except BaseException as problem:
                error = problem
                if not isinstance(problem, Exception):
                    self._park_workers()
                raise
            finally:
                try:
                    self._dismiss(error)
                finally:
                    self._observers.end(error)

    # --- Phases of a run -----------------------------------------------------------------------

    def _start(self) -> None:
        """Start all workers; return when each of them is at the start barrier."""
        limit = self._plan.start_timeout
        deadline = time.monotonic() + limit
        with contextlib.suppress(RunTimeout):  # the deadline has passed then, and all are late
            for state in self._ranks:
                self._start_member(state)
        self._watch(
            lambda state: state.member is not None and state.member.ready,
            deadline,
            f"start_timeout: expected all workers to start within {limit:g} s, {{}} did not; "
            f"raise start_timeout= if imports or arguments take longer",
        )

    def _release(self) -> None:
        """Let all workers enter ``fn``."""
        self._released = time.monotonic()
        for state in self._ranks:
            if state.filled is not None:
                state.filled.send("go")
        self._observers.release(self._released)

    def _join(self) -> None:
        """Return when every worker that is not lost has returned from ``fn`` and ended."""
        limit = self._plan.timeout
        assert self._released is not None
        self._watch(
            lambda state: state.returned is not None,
            self._released + limit,
            f"timeout: expected all workers to return within {limit:g} s, {{}} did not and "
            f"had to be ended; raise timeout= if that can take longer",
        )
        members = [state.member for state in self._ranks if state.returned and state.member]
        join(members, EXIT_GRACE)
        for member in members:
            if member.exitcode != 0:
                warn_caller(
                    f"worker {member.rank} returned from fn but then "
                    + (
                        f"did not exit within {EXIT_GRACE:g} s and is ended (does fn leave a "
                        f"thread or process running?)"
                        if member.exitcode is None
                        else f"exited with code {member.exitcode}"
                    )
                )

    def _outcome(self) -> Outcome:
        assert self._released is not None
        return Outcome(
            results=[self._result(state) for state in self._ranks],
            elapsed=max(state.returned or 0.0 for state in self._ranks) - self._released,
            restarts=tuple(state.restarts for state in self._ranks),
            losses=self._losses.all(self._released),
        )

    def _result(self, state: RankState) -> Any:
        if state.returned is None or state.member is None:
            return None
        try:
            return state.member.box.take()
        except Exception as error:
            raise WorkerError(
                f"result of fn in worker {state.rank}: expected an object that unpickles, "
                f"got {type(error).__name__}: {error}",
                rank=state.rank,
                traceback=format_traceback(error),
            ) from error

    def _park_workers(self) -> None:
        """Let the workers of an interrupted run finish their batches, for the last checkpoint."""
        if self._plan.checkpoint is None or self._released is None:
            return
        self._board.pause()
        deadline = time.monotonic() + PARK_GRACE
        at_rest = self._rendezvous.waiting
        while time.monotonic() < deadline and any(
            state.filled and state.filled.alive and state.rank not in at_rest
            for state in self._ranks
        ):
            time.sleep(BUSY_TICK)
            at_rest = self._rendezvous.waiting.union(self._board.parked)

    def _dismiss(self, error: BaseException | None) -> None:
        """End all workers and close their descriptors."""
        members = [state.member for state in self._ranks if state.member is not None]
        for state in self._ranks:
            state.member = None
        left = dismiss(members)
        if left and error is not None:
            error.add_note(
                f"{spell_ranks(left)} did not stop; what does not stop lives on as a daemon thread"
            )

    # --- The loop ------------------------------------------------------------------------------

    def _watch(self, done: Callable[[RankState], bool], deadline: float, complaint: str) -> None:
        """Supervise the workers until all are ``done`` or lost for good.

        Raises:
            RunTimeout: they were not at the ``deadline``.
            WorkerError: the run cannot continue.
        """
        while late := [p.rank for p in self._ranks if not (done(p) or p.vacant)]:
            now = time.monotonic()
            if now >= deadline:
                raise RunTimeout(complaint.format(spell_ranks(late)), tuple(late))
            wake = min(deadline, self._rendezvous.deadline, self._observers.due, *self._dates(now))
            wait([self._interrupts.fileno(), *self._lines()], max(0.0, wake - now))
            self._interrupts.check()
            now = time.monotonic()
            failures = [failure for state in self._ranks if (failure := self._receive(state, now))]
            for failure in sorted(failures, key=lambda failure: failure.when):
                self._handle_loss(self._ranks[failure.rank], failure, now)
            self._replace(now)
            for rank, problem in self._rendezvous.settle(now).items():
                if member := self._ranks[rank].filled:
                    member.send("barrier", problem)
            self._report_stalls(now)
            self._observers.tick(now)

    def _dates(self, now: float) -> Iterator[float]:
        """Times of the next check if no event wakes the launcher."""
        yield now + min(TICK, self._stalls.interval)
        for state in self._ranks:
            yield state.ready_by
            yield max(state.due, now + BUSY_TICK)

    def _lines(self) -> Iterator[Any]:
        """Pipes and sentinels that wake the launcher."""
        for state in self._ranks:
            member = state.member
            if member is None or state.returned is not None:
                continue
            if state.filled and not member.hung_up:
                yield member.pipe
            if member.alive and member.sentinel is not None:
                yield member.sentinel

    def _receive(self, state: RankState, now: float) -> Failure | None:
        """Receive a worker's messages; return its failure if it failed or died."""
        member = state.filled
        if member is None:
            return None
        exitcode = member.exitcode  # read first: the messages of a dead worker still count
        for word, *rest in member.words():
            if word == "ready":
                member.ready = True
                state.ready_by = math.inf
                if self._released is not None:
                    member.send("go")
            elif word == "barrier":
                self._rendezvous.arrive(state.rank, now + rest[0])
            elif word == "returned":
                state.returned = rest[0]
                self._rendezvous.leave(state.rank)
                self._board.leave(state.rank)
                return None
            elif word == "failed":
                return Failure(state.rank, *member.failure(), rest[0], hopeless=not member.ready)
        if exitcode is not None:
            message = stillborn(state.rank, exitcode, started=member.ready)
            hopeless = exitcode >= 0 and not member.ready
            return Failure(state.rank, message, "", None, now, hopeless)
        if now >= state.ready_by:
            limit = self._plan.start_timeout
            message = f"worker {state.rank}'s replacement did not start within {limit:g} s"
            return Failure(state.rank, message, "", None, now)
        return None

    def _report_stalls(self, now: float) -> None:
        if self._released is None or math.isinf(self._plan.stall_timeout):
            return
        pushed = self._pushes()
        for state in self._ranks:
            member = state.filled
            # A worker at a barrier waits for others; those are reported.
            excused = state.rank in self._rendezvous.waiting or self._board.paused
            if member is None or member.task is None or not member.ready or excused:
                self._stalls.forget(state.rank)
                continue
            steps, pushes = self._progress(state), pushed[member.process_id]
            if self._stalls.look(state.rank, steps + pushes, now):
                warn_caller(
                    f"worker {state.rank} (process {member.process_id}, {state_of(member.task)}) "
                    f"has made no progress for {self._plan.stall_timeout:g} s: {steps:,} batches "
                    f"and barriers and {pushes:,} pushes so far"
                )

    def _pushes(self) -> Counter[int | None]:
        """Pushes to all stores by process; threads push as one process."""
        pushes: Counter[int | None] = Counter()
        for optimizer in self._view.optimizers:
            for worker in optimizer.ledger().workers:
                pushes[worker.process] += worker.pushes
        return pushes

    def _progress(self, state: RankState) -> int:
        return int(self._board.seat(state.rank)["progress"])

    # --- Losses --------------------------------------------------------------------------------

    def _handle_loss(self, state: RankState, failure: Failure, now: float) -> None:
        """Replace a lost worker, continue without it, or end the run, as the plan says.

        Raises:
            WorkerError: the run ends with it.
        """
        plan, rank = self._plan, state.rank
        hopeless = failure.hopeless and state.restarts == 0
        progress = self._progress(state) > state.progress
        delay = None if hopeless else state.backoff.next(progress=progress)
        if delay is None and (hopeless or plan.on_error != "continue"):
            more = f"; it had been replaced {state.restarts} times" if state.restarts else ""
            raise failure.error(more) from failure.cause
        self._board.leave(rank)
        loss = self._losses.note(failure, replaced=delay is not None, batch=self._unfinished(rank))
        if delay is None:
            state.vacant = True
            self._rendezvous.lose(rank)
            self._board.abandon(rank)
            left = sum(not state.vacant for state in self._ranks)
            if left == 0:
                raise failure.error("; no worker is left") from failure.cause
            fate = f"the run goes on with {left} of {plan.workers} workers"
            if self._had_share(rank):
                fate += (
                    ", and the rest of its batches is not trained, as they were dealt out by "
                    "dispatch='static'; with 'dynamic' the others take them"
                )
        else:
            state.due = now + delay
            state.restarts += 1
            self._rendezvous.restart(rank)
            fate = f"it is replaced in {delay:g} s (restart {state.restarts} of {plan.retries})"
        self._stalls.forget(rank)
        warn_caller(f"{failure.message}; {fate}")
        began = now if self._released is None else self._released
        self._observers.loss(dataclasses.replace(loss, when=loss.when - began))

    def _had_share(self, rank: int) -> bool:
        """True if a dead worker's last loop used static dispatch."""
        positions = self._board.positions()
        dealt = {number for number, _ in positions["rounds"]}
        loops = [number for who, number, *_ in positions["claims"] if who == rank]
        return bool(loops) and max(loops) not in dealt

    def _unfinished(self, rank: int) -> int | None:
        """The index of the batch that a dead worker was working on, the last of those it had."""
        claims = self._board.positions()["claims"]
        held = [int(index) for who, _, state, index in claims if who == rank and state == "held"]
        return held[-1] if held else None

    def _replace(self, now: float) -> None:
        """Start the replacements that are due, each once its predecessor has ended."""
        for state in self._ranks:
            if now < state.due:
                continue
            if state.member is not None:
                if state.member.alive and now < state.due + FAILED_GRACE:
                    continue
                state.member.kill()
                state.member.join(KILL_GRACE)
                state.member.close()
                state.member = None
            self._losses.look()
            self._board.leave(state.rank)
            state.due = math.inf
            try:
                self._start_member(state)
            except OSError as error:
                message = f"worker {state.rank}'s replacement could not be started: {error}"
                self._handle_loss(state, Failure(state.rank, message, "", error, now), now)

    def _start_member(self, state: RankState) -> None:
        """Start a worker of a rank."""
        state.progress = self._progress(state)
        state.member = self._make_member(state.rank, self._task, state.restarts)
        state.member.start()
        if self._released is not None:
            state.ready_by = time.monotonic() + self._plan.start_timeout
