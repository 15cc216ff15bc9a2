"""Starting a worker process: what it is sent, and its bond to the parent's life.

Python's own spawn start method, changed in five places, each for a reason:

- the child is no new interpreter, but a fork of one that has imported torch: see
  :mod:`asyncopt.run.fork_server`. It has an environment of its own (``OMP_NUM_THREADS``), so the
  parent's stays as it is;
- it is killed by the kernel when its parent dies;
- ``fn`` and ``args`` travel through a mailbox instead of the start-up pipe. A pipe holds 64 KiB, so
  the parent would wait for each child's imports before it could start the next one; and what goes
  wrong while they are unpickled comes back as an exception instead of text on stderr;
- the server reports the child's exit: Python's own way, a pipe that closes with the child, may be
  held open by processes that the child has started;
- no resource tracker process is started if none runs: descriptors without names need none.
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
    """Raise RuntimeError in a daemonic process, which must not start others in multiprocessing.

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
    """Data for a child's setup. It imports the main module only if the file of that exists."""
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
        cpus: CPUs to pin the child to from its first instruction on; empty: leave it free.
        before_start: called in the parent while descriptors can be handed to the child.
        patience: s that the first worker's imports may take.
        preload: names of modules that are imported once for all workers.
        stream: random numbers of the child until its job seeds others.
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
        """In the child: the job."""
        self._job()

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Popen:
        assert isinstance(process_obj, WorkerProcess)
        return _WorkerPopen(process_obj)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_start"}


class _WorkerPopen(Popen):
    """The parent's hold on a worker process; see the module's docstring for what differs."""

    DupFd = Received  # type: ignore[assignment]

    _fds: list[int]

    def duplicate_for_child(self, fd: int) -> int:
        # Its owner may be gone before it is sent: a tensor that an object made to be pickled.
        self._fds.append(os.dup(fd))
        return len(self._fds) - 1

    def _launch(self, worker: WorkerProcess) -> None:
        environment, cpus, before_start, patience, stream, preload = worker._start
        message = io.BytesIO()
        child_start, start = os.pipe()  # stays open in the parent: its end tells of the parent's
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
        # If it has died meanwhile, the sentinel tells.
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
