"""The loop that watches a run's workers, and what becomes of a run that loses one."""

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
from asyncopt.run.interrupts import Interrupts
from asyncopt.run.life import Errand
from asyncopt.run.losses import Losses
from asyncopt.run.member import KILL_GRACE, Member, dismiss, join
from asyncopt.run.observe import Observer, Observers, RunView
from asyncopt.run.optimizers import SharedOptimizer
from asyncopt.run.outcome import Failure, Outcome, format_traceback, stillborn
from asyncopt.run.post import Post
from asyncopt.run.rendezvous import Rendezvous, spell_ranks
from asyncopt.run.stalls import Stalls, state_of
from asyncopt.warn import warn_caller

__all__ = ["supervise"]

TICK = 1.0  # s between looks when nothing wakes the launcher
BUSY_TICK = 0.02  # s between looks at what wakes nobody
EXIT_GRACE = 30.0  # s from the last return out of fn to the last exit
FAILED_GRACE = 1.0  # s for a worker that has told of its failure to exit before it is replaced
PARK_GRACE = 5.0  # s for the workers to reach the end of a batch before the last checkpoint


def supervise(
    hire: Callable[[int, Errand, int], Member],
    errand: Errand,
    optimizers: list[SharedOptimizer],
    observers: Sequence[Observer],
) -> Outcome:
    """Run the errand in as many workers as its plan says, and wait for all of them.

    Args:
        hire: makes a worker from its rank, the errand and the number of earlier workers of that
            rank; called again for each replacement.
        errand: what every worker does.
        optimizers: those that it trains, shared.
        observers: what else looks at the run.

    Raises:
        WorkerError: a worker ended before ``fn`` returned, and the plan does not let the run go on
            without it, or no worker is left. All have been ended.
        RunTimeout: a deadline of the plan passed. All have been ended.
        TypeError: ``fn`` or one of ``args`` cannot be sent to a process.
    """
    return _Supervisor(hire, errand, optimizers, observers).run()


class _Supervisor:
    """One run, in the order start, release, join."""

    def __init__(
        self,
        hire: Callable[[int, Errand, int], Member],
        errand: Errand,
        optimizers: list[SharedOptimizer],
        observers: Sequence[Observer],
    ) -> None:
        self._hire = hire
        self._errand = errand
        self._plan = plan = errand.plan
        self._board = errand.board
        restarts = plan.retries if plan.on_error == "restart" else 0
        self._posts = [Post(rank, Backoff(restarts)) for rank in range(plan.workers)]
        self._rendezvous = Rendezvous(plan.workers)
        self._stalls = Stalls(plan.stall_timeout)
        self._losses = Losses(optimizers)
        self._observers = Observers(observers)
        self._interrupts = Interrupts()
        self._released: float | None = None
        self._view = RunView(
            board=errand.board,
            optimizers=optimizers,
            trained=errand.trained,
            workers=plan.workers,
            process_ids=lambda: [
                post.member.process_id if post.member is not None else None for post in self._posts
            ],
            restarts=lambda: [post.restarts for post in self._posts],
            at_barrier=lambda: self._rendezvous.waiting,
            transfers=errand.transfers,
            elapsed=lambda: 0.0 if self._released is None else time.monotonic() - self._released,
        )

    def run(self) -> Outcome:
        """The whole run; whatever ends it, nothing is left of it."""
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
                    self._come_to_rest()
                raise
            finally:
                try:
                    self._dismiss(error)
                finally:
                    self._observers.end(error)

    # --- The course of a run -------------------------------------------------------------------

    def _start(self) -> None:
        """Start all workers; return when each of them stands at the start barrier."""
        limit = self._plan.start_timeout
        deadline = time.monotonic() + limit
        with contextlib.suppress(RunTimeout):  # the deadline has passed then, and all are late
            for post in self._posts:
                self._fill(post)
        self._watch(
            lambda post: post.member is not None and post.member.ready,
            deadline,
            f"start_timeout: expected all workers to start within {limit:g} s, {{}} did not; "
            f"raise start_timeout= if imports or arguments take longer",
        )

    def _release(self) -> None:
        """Let all workers enter ``fn``."""
        self._released = time.monotonic()
        for post in self._posts:
            if post.filled is not None:
                post.filled.send("go")
        self._observers.release(self._released)

    def _join(self) -> None:
        """Return when every worker that is not lost has returned from ``fn`` and ended."""
        limit = self._plan.timeout
        assert self._released is not None
        self._watch(
            lambda post: post.returned is not None,
            self._released + limit,
            f"timeout: expected all workers to return within {limit:g} s, {{}} did not and "
            f"had to be ended; raise timeout= if that can take longer",
        )
        members = [post.member for post in self._posts if post.returned and post.member]
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
            results=[self._result(post) for post in self._posts],
            elapsed=max(post.returned or 0.0 for post in self._posts) - self._released,
            restarts=tuple(post.restarts for post in self._posts),
            losses=self._losses.told(self._released),
        )

    def _result(self, post: Post) -> Any:
        if post.returned is None or post.member is None:
            return None
        try:
            return post.member.box.take()
        except Exception as error:
            raise WorkerError(
                f"result of fn in worker {post.rank}: expected an object that unpickles, "
                f"got {type(error).__name__}: {error}",
                rank=post.rank,
                traceback=format_traceback(error),
            ) from error

    def _come_to_rest(self) -> None:
        """Let the workers of an interrupted run end their batches, for its last checkpoint."""
        if self._plan.checkpoint is None or self._released is None:
            return
        self._board.pause()
        deadline = time.monotonic() + PARK_GRACE
        at_rest = self._rendezvous.waiting
        while time.monotonic() < deadline and any(
            post.filled and post.filled.alive and post.rank not in at_rest for post in self._posts
        ):
            time.sleep(BUSY_TICK)
            at_rest = self._rendezvous.waiting.union(self._board.parked)

    def _dismiss(self, error: BaseException | None) -> None:
        """Leave no worker and no descriptor, however far the run got."""
        members = [post.member for post in self._posts if post.member is not None]
        for post in self._posts:
            post.member = None
        left = dismiss(members)
        if left and error is not None:
            error.add_note(
                f"{spell_ranks(left)} did not stop; what does not stop lives on as a daemon thread"
            )

    # --- The loop ------------------------------------------------------------------------------

    def _watch(self, done: Callable[[Post], bool], deadline: float, complaint: str) -> None:
        """Serve the workers until all are ``done`` or lost for good.

        Raises:
            RunTimeout: that was not so at the ``deadline``.
            WorkerError: the run cannot go on.
        """
        while late := [p.rank for p in self._posts if not (done(p) or p.vacant)]:
            now = time.monotonic()
            if now >= deadline:
                raise RunTimeout(complaint.format(spell_ranks(late)), tuple(late))
            wake = min(deadline, self._rendezvous.deadline, self._observers.due, *self._dates(now))
            wait([self._interrupts.fileno(), *self._lines()], max(0.0, wake - now))
            self._interrupts.check()
            now = time.monotonic()
            failures = [failure for post in self._posts if (failure := self._hear(post, now))]
            for failure in sorted(failures, key=lambda failure: failure.when):
                self._lose(self._posts[failure.rank], failure, now)
            self._replace(now)
            for rank, problem in self._rendezvous.settle(now).items():
                if member := self._posts[rank].filled:
                    member.send("barrier", problem)
            self._report_stalls(now)
            self._observers.tick(now)

    def _dates(self, now: float) -> Iterator[float]:
        """When to look again though nothing wakes the launcher."""
        yield now + min(TICK, self._stalls.interval)
        for post in self._posts:
            yield post.ready_by
            yield max(post.due, now + BUSY_TICK)

    def _lines(self) -> Iterator[Any]:
        """What wakes the launcher."""
        for post in self._posts:
            member = post.member
            if member is None or post.returned is not None:
                continue
            if post.filled and not member.hung_up:
                yield member.pipe
            if member.alive and member.sentinel is not None:
                yield member.sentinel

    def _hear(self, post: Post, now: float) -> Failure | None:
        """Take in what a worker has said; its failure, if it failed or died."""
        member = post.filled
        if member is None:
            return None
        exitcode = member.exitcode  # looked at first: a dead worker's last words count
        for word, *rest in member.words():
            if word == "ready":
                member.ready = True
                post.ready_by = math.inf
                if self._released is not None:
                    member.send("go")
            elif word == "barrier":
                self._rendezvous.arrive(post.rank, now + rest[0])
            elif word == "returned":
                post.returned = rest[0]
                self._rendezvous.leave(post.rank)
                self._board.leave(post.rank)
                return None
            elif word == "failed":
                return Failure(post.rank, *member.failure(), rest[0], hopeless=not member.ready)
        if exitcode is not None:
            message = stillborn(post.rank, exitcode, started=member.ready)
            hopeless = exitcode >= 0 and not member.ready
            return Failure(post.rank, message, "", None, now, hopeless)
        if now >= post.ready_by:
            limit = self._plan.start_timeout
            message = f"worker {post.rank}'s replacement did not start within {limit:g} s"
            return Failure(post.rank, message, "", None, now)
        return None

    def _report_stalls(self, now: float) -> None:
        if self._released is None or math.isinf(self._plan.stall_timeout):
            return
        pushed = self._pushes()
        for post in self._posts:
            member = post.filled
            # Who waits at a barrier waits for others, which are reported.
            excused = post.rank in self._rendezvous.waiting or self._board.paused
            if member is None or member.task is None or not member.ready or excused:
                self._stalls.forget(post.rank)
                continue
            steps, pushes = self._progress(post), pushed[member.process_id]
            if self._stalls.look(post.rank, steps + pushes, now):
                warn_caller(
                    f"worker {post.rank} (process {member.process_id}, {state_of(member.task)}) "
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

    def _progress(self, post: Post) -> int:
        return int(self._board.seat(post.rank)["progress"])

    # --- Losses --------------------------------------------------------------------------------

    def _lose(self, post: Post, failure: Failure, now: float) -> None:
        """What the plan says of a worker that ended before ``fn`` returned.

        Raises:
            WorkerError: the run ends with it.
        """
        plan, rank = self._plan, post.rank
        hopeless = failure.hopeless and post.restarts == 0
        progress = self._progress(post) > post.progress
        delay = None if hopeless else post.backoff.next(progress=progress)
        if delay is None and (hopeless or plan.on_error != "continue"):
            more = f"; it had been replaced {post.restarts} times" if post.restarts else ""
            raise failure.error(more) from failure.cause
        self._board.leave(rank)
        loss = self._losses.note(failure, replaced=delay is not None, batch=self._unfinished(rank))
        if delay is None:
            post.vacant = True
            self._rendezvous.lose(rank)
            self._board.abandon(rank)
            left = sum(not post.vacant for post in self._posts)
            if left == 0:
                raise failure.error("; no worker is left") from failure.cause
            fate = f"the run goes on with {left} of {plan.workers} workers"
            if self._had_share(rank):
                fate += (
                    ", and the rest of its batches is not trained, as they were dealt out by "
                    "dispatch='static'; with 'dynamic' the others take them"
                )
        else:
            post.due = now + delay
            post.restarts += 1
            self._rendezvous.restart(rank)
            fate = f"it is replaced in {delay:g} s (restart {post.restarts} of {plan.retries})"
        self._stalls.forget(rank)
        warn_caller(f"{failure.message}; {fate}")
        began = now if self._released is None else self._released
        self._observers.loss(dataclasses.replace(loss, when=loss.when - began))

    def _had_share(self, rank: int) -> bool:
        """True if the batches of a dead worker's last loop were its own share, not all workers'."""
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
        """Start the replacements that are due, each when nothing is left of its predecessor."""
        for post in self._posts:
            if now < post.due:
                continue
            if post.member is not None:
                if post.member.alive and now < post.due + FAILED_GRACE:
                    continue
                post.member.kill()
                post.member.join(KILL_GRACE)
                post.member.close()
                post.member = None
            self._losses.look()
            self._board.leave(post.rank)
            post.due = math.inf
            try:
                self._fill(post)
            except OSError as error:
                message = f"worker {post.rank}'s replacement could not be started: {error}"
                self._lose(post, Failure(post.rank, message, "", error, now), now)

    def _fill(self, post: Post) -> None:
        """Start a worker of the post's rank."""
        post.progress = self._progress(post)
        post.member = self._hire(post.rank, self._errand, post.restarts)
        post.member.start()
        if self._released is not None:
            post.ready_by = time.monotonic() + self._plan.start_timeout
