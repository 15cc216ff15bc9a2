"""A worker process of a pool: the parent's side (`PoolProcess`) and the child's (`ServeTasks`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import IO, Any

from asyncopt.optim.origin import watch
from asyncopt.run.child import prepare
from asyncopt.run.culprits import naming
from asyncopt.run.mailbox import Mailbox
from asyncopt.run.outcome import describe
from asyncopt.run.payload import Payload
from asyncopt.run.plan import Plan
from asyncopt.run.processes import SpawnedMember
from asyncopt.run.random_states import Stream

__all__ = ["PoolPayload", "PoolProcess", "ServeTasks"]

# The remedy in messages about an optimizer that is not shared.
REMEDY = "make it in fn, or call its share_memory(workers=...) before the tasks"


class PoolPayload:
    """Function, tasks and data, pickled for each worker of a pool.

    Shared memory is passed by descriptor, so it can only be written while a process is spawned.

    Args:
        isolated: True if no task may see another one's changes to the payload: each task then runs
            in a process of its own, with private maps of the tensors.
        parts: ``fn``, ``tasks`` and ``data``, in this order.

    Attributes:
        isolated: the same.
    """

    def __init__(self, *, isolated: bool, **parts: Any) -> None:
        self.isolated = isolated
        self._parts = parts
        self._payload = Payload("data", private=isolated)

    def write(self, file: IO[bytes]) -> None:
        """Pickle everything.

        Raises:
            SegmentError: there is no room for tensors and arrays.
            TypeError: naming the part that cannot be pickled.
        """
        with naming(self._parts, "create it inside fn"):
            self._payload.dump(tuple(self._parts.values()), file)


class PoolProcess(SpawnedMember):
    """The parent's side: a worker process that takes one task after the other.

    Attributes:
        index: number of the task that it was given last and has not ended; None: none.
        begun: True if it has called the function of that task.
        since: monotonic seconds at its start, at its latest task, or at the request to leave.
    """

    def __init__(self, rank: int, plan: Plan, payload: PoolPayload, since: float) -> None:
        super().__init__(
            rank,
            plan,
            plan.seed,
            lambda line, box: ServeTasks(rank, plan.threads, line, box, plan.seed),
            lambda box: box.put(payload.write),
        )
        self.index: int | None = None
        self.begun = False
        self.since = since


@dataclass(frozen=True)
class ServeTasks:
    """The child's side: entry point of a worker process; pickled into it.

    Messages on the pipe, parent to child: ``("run", number of the task)``, ``("leave",)``; child to
    parent: ``("ready",)``, ``("begun",)`` before the function is called, ``("done", seconds)``,
    ``("failed", seconds)``. The result or error is in the mailbox before the last two are sent.
    Each task begins at the start of its own random stream of ``seed``.
    """

    rank: int
    threads: int
    pipe: Connection[Any, Any]
    mailbox: Mailbox
    seed: int | None

    def __call__(self) -> None:
        """Take function, tasks and data; run the requested tasks until asked to leave."""
        prepare(self.threads)
        begin = time.monotonic()
        try:
            fn, tasks, data = self.mailbox.take()
        except BaseException as error:
            self._report(error, begin, "could not unpickle fn, tasks and data: ")
            return
        self.pipe.send(("ready",))
        with watch(REMEDY, whole_process=True):
            self._work(fn, tasks, data)

    def _work(self, fn: Callable[..., Any], tasks: list[Any], data: tuple[Any, ...]) -> None:
        while (order := self.pipe.recv()) != ("leave",):
            _, index = order
            self.pipe.send(("begun",))
            begin = time.monotonic()
            try:
                Stream(self.seed, (index,)).enter()
                result = fn(tasks[index], *data)
                seconds = time.monotonic() - begin
                self.mailbox.put_result(result)
            except BaseException as error:
                self._report(error, begin)
            else:
                self.pipe.send(("done", seconds))

    def _report(self, error: BaseException, begin: float, prefix: str = "") -> None:
        seconds = time.monotonic() - begin
        self.mailbox.put_failure(prefix + describe(self.rank, error), error)
        self.pipe.send(("failed", seconds))
