"""The life of a worker process, told from the inside."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from asyncopt.errors import RunTimeout
from asyncopt.run.outcome import describe, format_traceback, portable
from asyncopt.run.spawn import Mailbox
from asyncopt.run.worker import Worker

__all__ = ["Job"]

# Seconds beyond the parent's own deadlines after which a worker stops believing in an answer.
PARENT_GRACE = 30.0


@dataclass(frozen=True)
class Job:
    """What a worker process does; pickled into it.

    The words on the pipe, child to parent: ``("ready",)``, ``("barrier", timeout)``,
    ``("returned", when)``, ``("failed", when)``, where ``when`` is the machine's monotonic clock;
    parent to child: ``("go",)``, ``("barrier", problem)``. All are small enough to be written at
    once; results and exceptions lie in the mailbox before their word is sent.
    """

    rank: int
    world_size: int
    threads: int
    start_timeout: float
    pipe: Connection[Any, Any]
    mailbox: Mailbox

    def __call__(self) -> None:
        """The whole life: take the arguments, wait for the start, run ``fn``, report."""
        threading.Thread(target=_die_with_parent, name="asyncopt-parent", daemon=True).start()
        torch.set_num_threads(self.threads)
        try:
            fn, args = self.mailbox.take()
        except BaseException as error:
            self._report_failure(error, f"worker {self.rank} could not unpickle fn and args: ")
            return
        self.pipe.send(("ready",))
        if not self.pipe.poll(self.start_timeout + PARENT_GRACE):
            raise RunTimeout(f"worker {self.rank}: the launching process does not answer")
        self.pipe.recv()
        try:
            result = fn(Worker(self.rank, self.world_size, self._meet), *args)
            returned = time.monotonic()
            data = _dump_result(result)
        except BaseException as error:
            self._report_failure(error)
        else:
            self.mailbox.put(lambda file: file.write(data))
            self.pipe.send(("returned", returned))

    def _meet(self, timeout: float) -> None:
        self.pipe.send(("barrier", timeout))
        if not self.pipe.poll(timeout + PARENT_GRACE):
            raise RunTimeout("barrier: the launching process does not answer")
        _, problem = self.pipe.recv()
        if problem:
            raise RunTimeout(problem)

    def _report_failure(self, error: BaseException, prefix: str = "") -> None:
        when = time.monotonic()
        message = prefix + describe(self.rank, error)
        report = (message, format_traceback(error, skip=1), portable(error))
        self.mailbox.put(lambda file: pickle.dump(report, file))
        self.pipe.send(("failed", when))


def _dump_result(result: object) -> bytes:
    """Plain pickle: tensors go by value, so that no descriptor outlives this process."""
    try:
        return pickle.dumps(result)
    except Exception as error:
        raise TypeError(
            f"result of fn: expected an object that pickle can send, got "
            f"{type(result).__name__} ({error}); return plain data or tensors"
        ) from error


def _die_with_parent() -> None:
    """Second line behind PR_SET_PDEATHSIG: the start-up pipe's other end closes with the parent."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
