"""Starting a worker process: its environment, its mailbox, and its bond to the parent's life.

Python's own spawn start method, changed in four places, each for a reason:

- the child gets an environment of its own (``OMP_NUM_THREADS``), so the parent's stays as it is;
- before it imports anything large the child asks the kernel to be killed when its parent dies, and
  ignores Ctrl-C, which a terminal sends to parent and children alike: the parent decides;
- ``fn`` and ``args`` travel through a memfd instead of the start-up pipe. A pipe holds 64 KiB, so
  the parent would wait for each child's imports before it could start the next one; and what goes
  wrong while they are unpickled comes back as an exception instead of text on stderr;
- no resource tracker process is started if none runs: descriptors without names need none.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
from collections.abc import Callable
from multiprocessing import context, process, reduction, resource_tracker, spawn, util
from multiprocessing.popen_spawn_posix import Popen
from typing import IO, Any

from asyncopt.errors import AsyncoptError

__all__ = ["Mailbox", "Payload", "WorkerProcess"]

# Runs before the child imports anything but the standard library. PR_SET_PDEATHSIG is 1; it follows
# the thread that started the child, which is the one that waits in launch. A parent that died
# before prctl took effect is seen by getppid.
GUARD = """\
import ctypes, os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
if os.getppid() != {parent}: os._exit(1)
"""


class Mailbox:
    """Memory for one message at a time between parent and child: arguments there, the result back.

    A memfd without a name, readable by its owner only, freed with its last descriptor. Neither side
    ever waits for the other to read, however large the message is.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("asyncopt-mailbox", os.MFD_CLOEXEC)
            os.fchmod(fd, 0o600)
        self._fd = fd

    def put(self, write: Callable[[IO[bytes]], object]) -> None:
        """Replace the message by what ``write`` writes."""
        self.clear()
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd, "wb", closefd=False) as file:
            write(file)

    def take(self) -> Any:
        """Unpickle the message and free its memory."""
        os.lseek(self._fd, 0, os.SEEK_SET)  # parent and child share one file offset
        with open(self._fd, "rb", closefd=False) as file:
            message = pickle.load(file)
        self.clear()
        return message

    def clear(self) -> None:
        """Free the message's memory."""
        os.ftruncate(self._fd, 0)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[Callable[[Any], Mailbox], tuple[Any]]:
        return _open_mailbox, (reduction.DupFd(self._fd),)


def _open_mailbox(descriptor: Any) -> Mailbox:
    return Mailbox(descriptor.detach())


class Payload:
    """What each worker process is sent: ``fn`` and ``args``, pickled once per process.

    Tensors (torch registers reducers for them when it is imported) and asyncopt's stores go by
    descriptor, so a payload can only be written while a child is being spawned.
    """

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.fn = fn
        self.args = args

    def write(self, file: IO[bytes]) -> None:
        """Pickle to ``file``.

        Raises:
            TypeError: some part cannot be pickled; the message names it.
        """
        try:
            reduction.ForkingPickler(file).dump((self.fn, self.args))
        except (OSError, MemoryError, AsyncoptError):
            raise
        except Exception as error:
            raise TypeError(self._culprit() or f"args: cannot be pickled ({error})") from error

    def _culprit(self) -> str:
        parts = [("fn", self.fn), *((f"args[{i}]", arg) for i, arg in enumerate(self.args))]
        for name, part in parts:
            try:
                reduction.ForkingPickler(io.BytesIO()).dump(part)
            except Exception as error:
                return (
                    f"{name}: expected an object that pickle can send to another process, got "
                    f"{_kind(part)} ({error}); build it inside fn, or use mode='thread'"
                )
        return ""


def _kind(part: object) -> str:
    return getattr(part, "__qualname__", None) or f"an object of type {type(part).__name__}"


def _close(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


class WorkerProcess(context.SpawnProcess):
    """A spawned process that runs ``child.serve``.

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

        self.sentinel, child_end = os.pipe()  # closes with the child
        child_start, start = os.pipe()  # stays open in the parent: its end tells of the parent's
        self.finalizer = util.Finalize(self, _close, (self.sentinel, start))
        try:
            command = spawn.get_command_line(tracker_fd=tracker, pipe_handle=child_start)
            program = command.index("-c") + 1
            guard = GUARD.format(parent=os.getpid())
            if cpus:
                guard += f"os.sched_setaffinity(0, {cpus})\n"
            command[program] = guard + command[program]
            self._child = subprocess.Popen(
                command,
                env=os.environ | environment,
                pass_fds=[*self._fds, child_start, child_end],
            )
            self.pid = self._child.pid
        finally:
            os.close(child_start)
            os.close(child_end)
        with open(start, "wb", closefd=False) as file:
            file.write(message.getbuffer())

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Exit code, negative for a signal; None while the process lives."""
        if self.returncode is None:
            self.returncode = self._child.poll() if flag == os.WNOHANG else self._child.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Like poll, waiting up to ``timeout`` seconds.

        Not for the sentinel: processes that the worker forked may hold that open after its death.
        """
        try:
            self.returncode = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self.returncode
