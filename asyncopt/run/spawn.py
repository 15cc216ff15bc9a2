"""Starting a worker process: its environment, and its bond to the parent's life.

Python's own spawn start method, changed in five places, each for a reason:

- the child gets an environment of its own (``OMP_NUM_THREADS``), so the parent's stays as it is;
- before it imports anything large the child asks the kernel to be killed when its parent dies, and
  ignores Ctrl-C, which a terminal sends to parent and children alike: the parent decides;
- ``fn`` and ``args`` travel through a mailbox instead of the start-up pipe. A pipe holds 64 KiB, so
  the parent would wait for each child's imports before it could start the next one; and what goes
  wrong while they are unpickled comes back as an exception instead of text on stderr;
- the parent watches the child by a pidfd: a pipe that closes with the child, as Python has it, may
  be held open by processes that the child has started;
- no resource tracker process is started if none runs: descriptors without names need none.
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
from collections.abc import Callable
from multiprocessing import context, process, reduction, resource_tracker, spawn, util
from multiprocessing.popen_spawn_posix import Popen
from typing import Any

__all__ = ["WorkerProcess"]

# Runs before the child imports anything but the standard library. PR_SET_PDEATHSIG is 1; it follows
# the thread that started the child, which is the one that waits in launch. A parent that died
# before prctl took effect is seen by getppid.
GUARD = """\
import ctypes, os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
if os.getppid() != {parent}: os._exit(1)
"""


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class WorkerProcess(context.SpawnProcess):
    """A spawned process that does a job.

    Args:
        rank: the worker's number, used in its name.
        job: called with no arguments in the child; it must pickle.
        environment: variables to change in the child's environment.
        cpus: CPUs to pin the child to from its first instruction on; empty: leave it free.
        before_exec: called in the parent while descriptors can be handed to the child.
    """

    def __init__(
        self,
        rank: int,
        job: Callable[[], None],
        *,
        environment: dict[str, str],
        cpus: tuple[int, ...],
        before_exec: Callable[[], None],
    ) -> None:
        super().__init__(name=f"asyncopt-worker-{rank}")
        self._job = job
        self._start = (environment, cpus, before_exec)

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

    _fds: list[int]
    _child: subprocess.Popen[bytes]

    def _launch(self, worker: WorkerProcess) -> None:
        environment, cpus, before_exec = worker._start
        tracker = getattr(resource_tracker._resource_tracker, "_fd", None)
        if tracker is not None:
            self._fds.append(tracker)
        message = io.BytesIO()
        context.set_spawning_popen(self)
        try:
            reduction.dump(spawn.get_preparation_data(worker.name), message)
            reduction.dump(worker, message)
            before_exec()
        finally:
            context.set_spawning_popen(None)

        child_start, start = os.pipe()  # stays open in the parent: its end tells of the parent's
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, start)
            try:
                command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_start)
                program = command.index("-c") + 1
                guard = GUARD.format(parent=os.getpid())
                if cpus:
                    guard += f"os.sched_setaffinity(0, {cpus})\n"
                command[program] = guard + command[program]
                self._child = subprocess.Popen(
                    command, env=os.environ | environment, pass_fds=[*self._fds, child_start]
                )
            finally:
                os.close(child_start)
            undo.callback(self._child.wait)
            undo.callback(self._child.kill)
            self.sentinel = os.pidfd_open(self._child.pid)
            undo.pop_all()
        self.pid = self._child.pid
        self.finalizer = util.Finalize(self, _close, (self.sentinel, start))
        # If it has died meanwhile, the sentinel tells.
        with contextlib.suppress(BrokenPipeError), open(start, "wb", closefd=False) as file:
            file.write(message.getbuffer())

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Exit code, negative for a signal; None while the process lives."""
        if self.returncode is None:
            self.returncode = self._child.poll() if flag == os.WNOHANG else self._child.wait()
        return self.returncode
