"""Server side of the fork server: it forks on request and reports how the forks ended."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import io
import os
import pickle
import select
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import torch

from asyncopt import _core
from asyncopt.run import cpython
from asyncopt.run.random_states import Stream

__all__ = [
    "NOT_READ",
    "Fork",
    "HungUp",
    "Received",
    "Request",
    "close",
    "read_exit_code",
    "receive",
    "send",
    "serve",
]

RECORD = 1 << 17  # bytes of a record at most
DESCRIPTORS = 250  # in a record at most; the kernel takes 253
EXIT_CODE = 4  # bytes
PR_SET_PDEATHSIG = 1
LOOKS, NAP = 50, 0.01  # polls, and s between them: a joined thread may not have exited yet
# Variables that no imported library has read: pytest's says which test runs.
NOT_READ = ("PYTEST_CURRENT_TEST",)


class Request(NamedTuple):
    """A request for a fork."""

    cpus: tuple[int, ...]
    """CPUs to which it is pinned."""
    stream: Stream
    """The random stream that it starts with."""
    environment: dict[str, str]
    """The variables of ``NOT_READ`` that are set."""
    stdio: tuple[int, ...]
    """Which of descriptors 0 to 2 are sent. They come first, then the pipe with the fork's job."""
    is_tracked: bool
    """True if the resource tracker's descriptor follows. The others are for ``Received``."""


class Fork(NamedTuple):
    """Handle of a fork in the server's parent."""

    pid: int
    pidfd: int
    status: int
    """A pipe for :func:`read_exit_code` that is readable once the fork has ended."""


class Received:
    """A descriptor sent to a fork, with the interface that reducers of multiprocessing expect.

    Args:
        index: its index among the descriptors that were sent.
    """

    fds: tuple[int, ...] = ()

    def __init__(self, index: int) -> None:
        self._index = index

    def detach(self) -> int:
        """The descriptor, in the fork."""
        return self.fds[self._index]


# --- The line between a server and its parent -----------------------------------------------------


class HungUp(Exception):
    """The other end of the connection is closed."""


def send(line: socket.socket, message: Any, fds: Sequence[int] = ()) -> None:
    """Send a short message, and descriptors."""
    for start in range(0, max(1, len(fds)), DESCRIPTORS):
        end = start + DESCRIPTORS
        socket.send_fds(line, [pickle.dumps((message, end >= len(fds)))], fds[start:end])


def receive(line: socket.socket) -> tuple[Any, list[int]]:
    """The next message, and its descriptors.

    Raises:
        HungUp: the connection is closed.
        OSError: too many descriptors are open.
    """
    fds: list[int] = []
    is_cut = is_last = False
    while not is_last:
        data, new, flags, _ = socket.recv_fds(line, RECORD, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            raise HungUp
        message, is_last = pickle.loads(data)
        fds += new
        is_cut |= bool(flags & socket.MSG_CTRUNC)
    if is_cut:
        close(*fds)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return message, fds


def read_exit_code(status: int) -> int:
    """Exit code of a fork, negative for a signal."""
    code = os.read(status, EXIT_CODE)
    # If the server is killed, the kernel kills its forks.
    return int.from_bytes(code, sys.byteorder, signed=True) if code else -signal.SIGKILL


def close(*fds: int) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


# --- In the server --------------------------------------------------------------------------------


def serve(line: socket.socket, preload: Sequence[str]) -> NoReturn:
    """Import, then fork on request until the parent hangs up; in a fork, run the worker."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the kernel would reap them
    _core.expect_forks()
    Stream(None).enter()  # imports numpy.random, which would cost each fork 10 ms
    problem = _import(preload)
    cpython.forget_exit_handlers()
    gc.collect()
    gc.freeze()  # the collector then writes to no object, so the pages stay shared
    me = os.getpid()
    forks: dict[int, tuple[int, int]] = {}  # by pidfd: process id, pipe for the exit code
    poll = select.poll()
    poll.register(line, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != line.fileno():
                poll.unregister(fd)
                _report_exit(fd, *forks.pop(fd))
                continue
            try:
                orders = _answer(line, forks, poll, problem)
            except HungUp:
                os._exit(0)  # the kernel then kills the forks
            if orders is not None:
                line.close()
                _run_fork(me, *orders)


def _import(names: Sequence[str]) -> ImportError | None:
    """Import modules; return the error that makes forks impossible, or None."""
    for name in names:
        try:
            importlib.import_module(name)
        except BaseException as error:
            problem = ImportError(
                f"preload: expected modules that a new process can import, got {name!r}, which "
                f"raised {_last_lines(traceback.format_exception_only(error))}",
                name=name,
            )
            problem.add_note(_last_lines(traceback.format_exception(error)))
            return problem
        found = "CUDA" if torch.cuda.is_initialized() else "a thread" if _has_threads() else ""
        if found:
            return ImportError(
                f"preload: expected modules that start neither threads nor CUDA, which forks "
                f"cannot use, got {name!r}, which started {found}; import it in fn instead",
                name=name,
            )
    return None


def _last_lines(lines: Sequence[str]) -> str:
    """The end of a text, short enough for a record."""
    return "".join(lines).strip()[-RECORD // 16 :]


def _has_threads() -> bool:
    """True if threads remain after a fork; OpenBLAS, for example, ends its threads before one."""
    pid = _fork_quietly()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    for _ in range(LOOKS):
        if len(os.listdir("/proc/self/task")) == 1:
            return False
        time.sleep(NAP)
    return True


def _fork_quietly() -> int:
    with warnings.catch_warnings():  # of threads, such as those of OpenBLAS
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _answer(
    line: socket.socket,
    forks: dict[int, tuple[int, int]],
    poll: select.poll,
    problem: ImportError | None,
) -> tuple[Request, list[int]] | None:
    """Serve the next request; in the new fork, return the request and its descriptors.

    Raises:
        HungUp: the parent has closed the line.
    """
    try:
        _, [end] = receive(line)
    except OSError:
        return None  # no descriptor was free for the channel; it closes, which the requester sees
    with socket.socket(fileno=end) as channel, contextlib.suppress(HungUp, ConnectionError):
        try:
            return _fork(channel, forks, poll, problem)
        except (OSError, ImportError) as error:
            send(channel, error)
    return None


def _fork(
    channel: socket.socket,
    forks: dict[int, tuple[int, int]],
    poll: select.poll,
    problem: ImportError | None,
) -> tuple[Request, list[int]] | None:
    """Serve the request of a channel, unless the requester gave up; see :func:`_answer`.

    Raises:
        ImportError: ``problem``, if there is one.
        OSError: too many processes or descriptors; no fork was made.
    """
    with contextlib.ExitStack() as ours:
        request, fds = receive(channel)
        ours.callback(close, *fds)
        if problem is not None:
            raise problem
        hang_up = select.poll()
        hang_up.register(channel, 0)
        if hang_up.poll(0):
            return None
        status, end = os.pipe()
        ours.callback(os.close, status)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, end)
            pid = _fork_quietly()
            if pid == 0:
                close(status, *forks, *(other for _, other in forks.values()))
                ours.pop_all()
                return request, fds
            undo.callback(os.waitpid, pid, 0)
            undo.callback(os.kill, pid, signal.SIGKILL)
            pidfd = os.pidfd_open(pid)
            undo.callback(os.close, pidfd)
            send(channel, pid, [pidfd, status])
            undo.pop_all()
    forks[pidfd] = pid, end
    poll.register(pidfd, select.POLLIN)
    return None


def _report_exit(pidfd: int, pid: int, end: int) -> None:
    """Reap a fork, and write its exit code."""
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(BrokenPipeError):  # the requester has closed its end
        os.write(end, code.to_bytes(EXIT_CODE, sys.byteorder, signed=True))
    close(pidfd, end)


def _run_fork(server: int, request: Request, fds: Sequence[int]) -> NoReturn:
    """Set up this fork like a new process, and run the task from the pipe."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, *map(ctypes.c_ulong, (signal.SIGKILL, 0, 0, 0)))
    if os.getppid() != server:
        os._exit(1)
    os.sched_setaffinity(0, request.cpus)
    for name in NOT_READ:
        os.environ.pop(name, None)
    os.environ.update(request.environment)
    given = iter(fds)
    for number in range(3):
        if number in request.stdio:
            fd = next(given)
            os.dup2(fd, number)
            os.close(fd)
        else:
            with contextlib.suppress(OSError):
                os.close(number)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=sys.stdout.isatty())
    start = next(given)
    cpython.set_tracker(next(given) if request.is_tracked else None)
    Received.fds = tuple(given)
    request.stream.enter()
    code = cpython.run_spawned(start)
    _exit_cleanly()
    os._exit(code)


def _exit_cleanly() -> None:
    """Run exit handlers and flush files, without tearing down the imported modules.

    Tearing them down takes 0.2 s and copies pages that are shared with the server.
    """
    cpython.run_exit_handlers()
    written = io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom
    files = [sys.stdout, sys.stderr]
    files += [each for each in gc.get_objects() if issubclass(type(each), written)]
    for file in files:
        with contextlib.suppress(Exception):  # closed, or its reader is gone
            file.flush()
    ctypes.CDLL(None).fflush(None)
