"""Start of worker processes.

It is Python's spawn start method with five changes:

- The child is a fork of a process that has imported torch, not a new interpreter: see
  :mod:`asyncopt.run.fork_server`. It has its own environment (``OMP_NUM_THREADS``), so the parent's
  is not changed.
- The kernel kills the child when its parent dies.
- ``fn`` and ``args`` are sent through a mailbox instead of the start-up pipe. A pipe holds 64 KiB,
  so the parent would wait for each child's imports before it could start the next one. Errors
  while unpickling them are reported as an exception instead of text on stderr.
- The server reports the child's exit. Python's method, a pipe that closes with the child, fails if
  processes started by the child hold the pipe open.
- No resource tracker is started if none runs: unnamed descriptors need none.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Callable
from multiprocessing import context, process, reduction, spawn, util
from multiprocessing.connection import wait
from multiprocessing.popen_spawn_posix import Popen
from typing import Any

from asyncopt.run.definitions import main_is_file
from asyncopt.run.fork_server import fork
from asyncopt.run.forks import Received, close, read_exit_code
from asyncopt.run.random_states import Stream

__all__ = ["WorkerProcess", "refuse_daemons"]


def refuse_daemons(more: str = "") -> None:
    """Raise RuntimeError in a daemonic process: multiprocessing forbids it to start others.

    Args:
        more: a further remedy.
    """
    current = process.current_process()
    if current.daemon:
        raise RuntimeError(
            f"workers: expected a process that may start others, got a daemonic one, "
            f"{current.name}; create it with daemon=False, or by "
            f"concurrent.futures.ProcessPoolExecutor in place of multiprocessing.Pool{more}"
        )


def _preparation(name: str) -> dict[str, Any]:
    """Data for a child's setup. The child imports the main module only if its file exists."""
    data: dict[str, Any] = spawn.get_preparation_data(name)
    if not main_is_file():
        data.pop("init_main_from_path", None)
    return data


class WorkerProcess(context.SpawnProcess):
    """A spawned process that does a job.

    Args:
        rank: the worker's number, used in its name.
        job: called with no arguments in the child; it must pickle.
        environment: variables to change in the child's environment.
        cpus: CPUs to pin the child to from its first instruction on; empty: do not pin it.
        before_start: called in the parent while descriptors can be sent to the child.
        patience: s that the first worker's imports may take.
        preload: names of modules that are imported once for all workers.
        stream: random stream of the child until its job seeds another.
    """

    def __init__(
        self,
        rank: int,
        job: Callable[[], None],
        *,
        environment: dict[str, str],
        cpus: tuple[int, ...],
        before_start: Callable[[], None],
        patience: float,
        stream: Stream,
        preload: tuple[str, ...],
    ) -> None:
        super().__init__(name=f"asyncopt-worker-{rank}")
        self._job = job
        self._start = (environment, cpus, before_start, patience, stream, preload)

    def run(self) -> None:
        """Run the job; called in the child."""
        self._job()

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:
        assert isinstance(process_obj, WorkerProcess)
        return _WorkerPopen(process_obj)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_start"}


class _WorkerPopen(Popen):
    """The parent's handle of a worker process; the module's docstring lists the differences."""

    DupFd = Received  # type: ignore[assignment]

    _fds: list[int]

    def duplicate_for_child(self, fd: int) -> int:
        # Duplicated because its owner, such as a temporary made for pickling, may be freed first.
        self._fds.append(os.dup(fd))
        return len(self._fds) - 1

    def _launch(self, worker: WorkerProcess) -> None:
        environment, cpus, before_start, patience, stream, preload = worker._start
        message = io.BytesIO()
        child_start, start = os.pipe()  # `start` stays open here: it closes when the parent ends
        try:
            context.set_spawning_popen(self)
            try:
                reduction.dump(_preparation(worker.name), message)
                reduction.dump(worker, message)
                before_start()
            finally:
                context.set_spawning_popen(None)
            self._server, self._fork = fork(
                environment, preload, cpus, stream, child_start, self._fds, patience
            )
        except BaseException:
            os.close(start)
            raise
        finally:
            for fd in (child_start, *self._fds):
                os.close(fd)
        self.pid, self.sentinel = self._fork.pid, self._fork.status
        self.finalizer = util.Finalize(self, close, (self.sentinel, self._fork.pidfd, start))
        # If the child has died in the meantime, the sentinel reports that.
        with contextlib.suppress(BrokenPipeError), open(start, "wb", closefd=False) as file:
            file.write(message.getbuffer())

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Exit code, negative for a signal; None while the process lives."""
        if self.returncode is None and wait([self.sentinel], 0 if flag == os.WNOHANG else None):
            self.returncode = read_exit_code(self.sentinel)
        return self.returncode

    def _send_signal(self, sig: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._fork.pidfd, sig)
