"""Entry point of a worker, process or thread: setup, call of ``fn``, result, exit."""

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
from asyncopt.run.checkpoint.worker_states import WorkerState, WorkerStates
from asyncopt.run.orders import Drawings
from asyncopt.run.outcome import describe
from asyncopt.run.payload import Payload
from asyncopt.run.plan import Plan
from asyncopt.run.random_states import Stream
from asyncopt.run.schedule import Restarts
from asyncopt.run.transfers import TransferLog
from asyncopt.run.worker import Worker

__all__ = ["LONGEST", "REBUILD", "Box", "Stop", "WorkerTask", "parts_of", "run_worker"]

# Seconds after the launcher's own deadline at which a worker gives up waiting for an answer.
GRACE = 30.0
# Longest timeout, in seconds, that is passed to a waiting system call.
LONGEST = 1e6
# Remedies in messages: for an argument that cannot be pickled, for an unshared optimizer.
REBUILD = "build it inside fn, or use mode='thread'"
REMEDY = (
    "pass it to launch in args, or make it in fn; to train a copy of the worker's own, make it in "
    "fn by copy.deepcopy((model, optimizer))"
)


class Stop(SystemExit):
    """Raised in workers when the run is over; ``except Exception`` does not catch it."""


@dataclass(frozen=True)
class WorkerTask:
    """A worker's task: function, arguments, and the shared state of the run."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    trained: Trained
    """Optimizers, modules and schedulers in ``fn`` and ``args``; in a worker, its copies."""
    board: Board
    plan: Plan
    worker_states: WorkerStates | None = None
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
    """A slot for one object that is too large for the pipe between launcher and worker."""

    def take(self) -> Any:
        """Remove and return the object put in last: in a worker, its task."""

    def put_result(self, result: object) -> None:
        """Put the return value of ``fn``."""

    def put_failure(self, message: str, error: BaseException) -> None:
        """Put the exception that ended the worker."""


class _LauncherPipe:
    """The worker's end of its pipe to the launcher."""

    def __init__(self, rank: int, pipe: Connection[Any, Any]) -> None:
        self._rank = rank
        self._pipe = pipe

    def send(self, *words: object) -> None:
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
        self.send("barrier", timeout)
        _, problem = self.answer(timeout)
        if problem:
            raise RunTimeout(problem)


def _station(task: WorkerTask, rank: int) -> contextlib.AbstractContextManager[Station | None]:
    """Context of the worker's device; None without devices."""
    plan, transfers = task.plan, task.transfers
    if plan.devices is None or transfers is None:
        return contextlib.nullcontext()
    # Buffers of the first worker are kept, as in data-parallel training.
    return Station(
        task.trained, plan.devices[rank], lag=plan.lag, keeps=rank == 0, log=transfers.of(rank)
    )


def run_worker(
    rank: int,
    pipe: Connection[Any, Any],
    box: Box,
    start_timeout: float,
    stream: Stream | None = None,
) -> None:
    """Take the task, wait for the start, run it, and report the outcome.

    The generators of the process are seeded from ``stream`` just before ``fn`` is called; None
    leaves them as they are, in a thread of the launching process.

    Messages from worker to launcher: ``("ready",)``, ``("barrier", timeout)``,
    ``("returned", when)``, ``("failed", when)``, where ``when`` is the machine's monotonic clock.
    Messages from launcher to worker: ``("go",)``, ``("barrier", problem)``. All are small enough to
    be written at once. Results and failures are put in the box before their message is sent. The
    worker ends when the launcher closes the pipe.
    """
    line = _LauncherPipe(rank, pipe)
    excuse = f"worker {rank} could not unpickle fn and args: "
    with contextlib.suppress(Stop):
        try:
            task: WorkerTask = box.take()
            excuse = ""
            with _station(task, rank) as station:
                line.send("ready")
                line.answer(start_timeout)
                trained = task.trained
                # Threads without optimizers have the modules of the launching process.
                is_own = bool(trained.optimizers) or stream is not None
                worker = Worker(
                    rank,
                    task.plan.workers,
                    line.meet,
                    board=task.board,
                    optimizers=trained.optimizers,
                    settings=task.plan,
                    station=station,
                    drawings=task.drawings,
                    modules=trained.modules if is_own else [],
                )
                goes_on = False
                if task.worker_states is not None:
                    worker_state = WorkerState(task.worker_states, rank, trained)
                    worker.on_loop, worker.on_end = worker_state.enter, worker_state.hand_over
                    worker.on_take, worker.on_park = worker_state.at, worker_state.hand_over
                    goes_on = worker_state.goes_on
                can_restart = task.plan.on_error == "restart"
                if rank == 0 and (can_restart or task.worker_states is not None):  # one warning
                    worker.restarts = Restarts(
                        trained.optimizers,
                        also_in_args=can_restart,
                        goes_on=goes_on or task.board.seat(rank)["incarnation"] > 0,
                    )
                try:
                    with watch(REMEDY, whole_process=stream is not None):
                        if stream is not None:
                            stream.enter()
                        result = task.fn(worker, *task.args)
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
            line.send("failed", when)
        else:
            line.send("returned", returned)
