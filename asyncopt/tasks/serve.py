"""A pool's worker process, told from the inside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from asyncopt.optim.origin import watch
from asyncopt.run.child import prepare
from asyncopt.run.mailbox import Mailbox
from asyncopt.run.outcome import describe
from asyncopt.run.random_states import Stream

__all__ = ["Service"]

# The remedy in messages about an optimizer that is not shared.
REMEDY = "make it in fn, or call its share_memory(workers=...) before the tasks"


@dataclass(frozen=True)
class Service:
    """What a pool's worker process does; pickled into it.

    The words on the pipe, parent to child: ``("run", task's number)``, ``("leave",)``; child to
    parent: ``("ready",)``, ``("begun",)`` before the function is called, ``("done", seconds)``,
    ``("failed", seconds)``. The payload of the last two is in the mailbox before the word is sent.
    Each task begins at the start of its own random stream of ``seed``.
    """

    rank: int
    threads: int
    pipe: Connection[Any, Any]
    mailbox: Mailbox
    seed: int | None

    def __call__(self) -> None:
        """The whole life: take function, tasks and data, run the tasks that are asked for."""
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
