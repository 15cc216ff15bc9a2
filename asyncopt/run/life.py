"""A worker's life from its start to its last word: the same in a process and in a thread."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol

from asyncopt.devices import Station
from asyncopt.errors import RunTimeout
from asyncopt.optim.origin import watch
from asyncopt.optim.reach import Trained
from asyncopt.run.board import Board
from asyncopt.run.checkpoint.keepsakes import Keepsake, Keepsakes
from asyncopt.run.orders import Drawings
from asyncopt.run.outcome import describe
from asyncopt.run.payload import Payload
from asyncopt.run.plan import Plan
from asyncopt.run.random_states import Stream
from asyncopt.run.schedule import Restarts
from asyncopt.run.transfers import TransferLog
from asyncopt.run.worker import Worker

__all__ = ["LONGEST", "REBUILD", "Box", "Errand", "Stop", "live", "parts_of"]

# Seconds beyond the launcher's own deadlines after which a worker stops believing in an answer.
GRACE = 30.0
# Seconds that a system call which waits for an answer takes at most.
LONGEST = 1e6
# Remedies in messages: for an argument that cannot be pickled, for an unshared optimizer.
REBUILD = "build it inside fn, or use mode='thread'"
REMEDY = (
    "pass it to launch in args, or make it in fn; to train a copy of the worker's own, make it in "
    "fn by copy.deepcopy((model, optimizer))"
)


class Stop(SystemExit):
    """Raised inside workers of a run that is over; ``except Exception`` lets it pass."""


@dataclass(frozen=True)
class Errand:
    """What a worker is to do, and on what."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    trained: Trained
    """Optimizers, modules and schedulers in ``fn`` and ``args``; in a worker, its own copies."""
    board: Board
    plan: Plan
    keepsakes: Keepsakes | None = None
    transfers: TransferLog | None = None
    seed: int | None = None
    """Root of the random streams of worker processes; None: each draws its own from the system."""
    payload: Payload = field(default_factory=lambda: Payload("args"))
    drawings: Drawings = field(default_factory=Drawings)


def parts_of(fn: object, args: tuple[Any, ...], plan: Plan) -> dict[str, object]:
    """The objects of the caller that are sent to a worker process, by their names in messages."""
    named = {f"args[{i}]": arg for i, arg in enumerate(args)}
    return {"fn": fn, **named, "delay": plan.delay}


class Box(Protocol):
    """What is too large for the line between launcher and worker, one thing at a time."""

    def take(self) -> Any:
        """What was put in last: the errand, in a worker."""

    def put_result(self, result: object) -> None:
        """What ``fn`` returned."""

    def put_failure(self, message: str, error: BaseException) -> None:
        """What ended the worker."""


class _Line:
    """A worker's end of the line to its launcher."""

    def __init__(self, rank: int, pipe: Connection[Any, Any]) -> None:
        self._rank = rank
        self._pipe = pipe

    def say(self, *words: object) -> None:
        try:
            self._pipe.send(words)
        except OSError:
            raise Stop from None

    def answer(self, patience: float) -> tuple[Any, ...]:
        if not self._pipe.poll(min(patience + GRACE, LONGEST)):
            raise RunTimeout(f"worker {self._rank}: the launching process does not answer")
        try:
            return tuple(self._pipe.recv())
        except (EOFError, OSError):
            raise Stop from None

    def meet(self, timeout: float) -> None:
        """``Worker.barrier``."""
        self.say("barrier", timeout)
        _, problem = self.answer(timeout)
        if problem:
            raise RunTimeout(problem)


def _station(errand: Errand, rank: int) -> contextlib.AbstractContextManager[Station | None]:
    """What the worker has on its device; without devices there is nothing."""
    plan, transfers = errand.plan, errand.transfers
    if plan.devices is None or transfers is None:
        return contextlib.nullcontext()
    # Buffers are those of the first worker, as in data-parallel training.
    return Station(
        errand.trained, plan.devices[rank], lag=plan.lag, keeps=rank == 0, log=transfers.of(rank)
    )


def live(
    rank: int,
    pipe: Connection[Any, Any],
    box: Box,
    start_timeout: float,
    stream: Stream | None = None,
) -> None:
    """Take the errand, wait for the start, run it, and report what came of it.

    The generators of the process are seeded from ``stream`` just before ``fn`` is called; None
    leaves them as they are, in a thread of the launching process.

    The words on the pipe, worker to launcher: ``("ready",)``, ``("barrier", timeout)``,
    ``("returned", when)``, ``("failed", when)``, where ``when`` is the machine's monotonic clock;
    launcher to worker: ``("go",)``, ``("barrier", problem)``. All are small enough to be written at
    once; results and failures lie in the box before their word is sent. A launcher that hangs up
    ends the worker.
    """
    line = _Line(rank, pipe)
    excuse = f"worker {rank} could not unpickle fn and args: "
    with contextlib.suppress(Stop):
        try:
            errand: Errand = box.take()
            excuse = ""
            with _station(errand, rank) as station:
                line.say("ready")
                line.answer(start_timeout)
                trained = errand.trained
                # Threads without optimizers have the modules of the launching process.
                is_own = bool(trained.optimizers) or stream is not None
                worker = Worker(
                    rank,
                    errand.plan.workers,
                    line.meet,
                    board=errand.board,
                    optimizers=trained.optimizers,
                    settings=errand.plan,
                    station=station,
                    drawings=errand.drawings,
                    modules=trained.modules if is_own else [],
                )
                goes_on = False
                if errand.keepsakes is not None:
                    keepsake = Keepsake(errand.keepsakes, rank, trained)
                    worker.on_loop, worker.on_end = keepsake.enter, keepsake.hand_over
                    worker.on_take, worker.on_park = keepsake.at, keepsake.hand_over
                    goes_on = keepsake.goes_on
                can_restart = errand.plan.on_error == "restart"
                if rank == 0 and (can_restart or errand.keepsakes is not None):  # one warning
                    worker.restarts = Restarts(
                        trained.optimizers,
                        also_in_args=can_restart,
                        goes_on=goes_on or errand.board.seat(rank)["incarnation"] > 0,
                    )
                try:
                    with watch(REMEDY, whole_process=stream is not None):
                        if stream is not None:
                            stream.enter()
                        result = errand.fn(worker, *errand.args)
                    worker.finish()
                except BaseException:
                    worker.retire(returned=False)
                    raise
                returned = time.monotonic()
                worker.retire(returned=True)
            box.put_result(result)
        except Stop:
            raise
        except BaseException as error:
            when = time.monotonic()
            box.put_failure(excuse + describe(rank, error), error)
            line.say("failed", when)
        else:
            line.say("returned", returned)
