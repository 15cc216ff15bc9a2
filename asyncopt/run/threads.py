"""A worker as a thread of this process."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import threading
from collections.abc import Iterator
from typing import Any

import torch

from asyncopt.optim import thread_clone
from asyncopt.run.entry import Stop, WorkerTask, run_worker
from asyncopt.run.member import Member
from asyncopt.run.optimizers import leave_stores
from asyncopt.run.outcome import format_traceback

__all__ = ["ThreadMember", "torch_threads"]

HANG_UP = 0.01  # s for a thread to notice that the launcher closed its pipe


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Context in which torch uses ``count`` threads, in the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _ThreadBox:
    """The box of a thread: objects are passed by reference."""

    def __init__(self, content: Any) -> None:
        self._content = content

    def take(self) -> Any:
        content, self._content = self._content, None
        return content

    def put_result(self, result: object) -> None:
        self._content = result

    def put_failure(self, message: str, error: BaseException) -> None:
        self._content = (message, format_traceback(error, skip=1), error)


class ThreadMember(Member):
    """A worker in a thread, with a model and optimizers of its own on the shared memory.

    A thread cannot be killed. To end it, an exception is raised at its next Python instruction; if
    it stays in native code, it is left behind as a daemon thread.

    Args:
        rank: its rank.
        task: its task; the optimizers must be shared. The seed is not used: all threads draw from
            the generators of this process.
        life: number of earlier workers of this rank in the run; not used.
    """

    box: _ThreadBox

    def __init__(self, rank: int, task: WorkerTask, life: int) -> None:
        super().__init__(rank)
        self._cpus = task.plan.cpus(rank)
        self._start_timeout = task.plan.start_timeout
        if task.trained.optimizers:  # without optimizers, the threads share all objects
            fn, args, trained = thread_clone((task.fn, task.args, task.trained))
            task = dataclasses.replace(task, fn=fn, args=args, trained=trained)
        self._optimizers = task.trained.optimizers
        self.box = _ThreadBox(task)
        self._thread = threading.Thread(
            target=self._run,
            name=f"asyncopt-worker-{rank}",
            daemon=True,  # a thread that never stops must not keep the interpreter from exiting
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        if self._cpus:
            os.sched_setaffinity(0, self._cpus)  # 0 is the calling thread, not the process
        run_worker(self.rank, self.far_end, self.box, self._start_timeout)

    @property
    def task(self) -> int | None:
        """The kernel's id of the thread."""
        return self._thread.native_id

    @property
    def process_id(self) -> int | None:
        """Id of this process; None after the thread's end."""
        return os.getpid() if self.alive else None

    @property
    def exitcode(self) -> int | None:
        """0 once it has ended."""
        return None if self._thread.is_alive() or self.task is None else 0

    @property
    def sentinel(self) -> None:
        """None: a thread sends a message before it ends."""
        return None

    def failure(self) -> tuple[str, str, BaseException | None]:
        """Take the exception itself."""
        message, traceback, cause = self.box.take()
        return message, traceback, cause

    def terminate(self) -> None:
        """Close the pipe, which ends a thread that waits for an answer, and interrupt any other."""
        self.pipe.close()
        self._thread.join(HANG_UP)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread.ident or 0), ctypes.py_object(Stop)
        )

    def kill(self) -> bool:
        """False: threads cannot be killed."""
        return False

    def join(self, timeout: float) -> None:
        """Wait."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Return its slots in the stores, unless the thread still runs."""
        self.pipe.close()
        if self.alive:
            return  # it still uses the rest
        self.far_end.close()
        leave_stores(self._optimizers)
