"""Fork server for worker processes.

The server imports torch and asyncopt once, then forks one child per worker. A fork starts in
milliseconds and shares the imported memory; a spawned process needs about 1.7 s and 150 MiB.

Forking is safe here because the server only imports modules. It has no OpenMP threads, no autograd
threads and no CUDA context whose locks a child could inherit. Libraries that start threads at
import, such as OpenBLAS, register fork handlers. The user's modules are imported there only if
``launch(preload=...)`` names them: a file or connection that a module opens at import would be
shared by all workers, and that cannot be detected.

All threads of a process use the same server. A forked child of the process starts its own.

This module is the client side; :mod:`asyncopt.run.forks` runs in the server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from multiprocessing import spawn
from pathlib import Path
from typing import IO, Any

from asyncopt.run import cpython
from asyncopt.run.entry import LONGEST
from asyncopt.run.forks import NOT_READ, Fork, HungUp, Request, receive, send
from asyncopt.run.interrupts import wait
from asyncopt.run.random_states import Stream

__all__ = ["OWNER", "ForkServer", "fork", "kept", "stop_fork_server"]

KEPT = 2
END_GRACE = 10.0  # s to wait for the exit of a server that hung up or was killed
OWNER = "asyncopt-fork-server"  # name of the threads that own servers

# Runs before the server imports anything but the standard library. SIGINT is blocked at the start,
# so that Ctrl-C, which a terminal sends to parent and children alike, cannot end the interpreter
# while it starts; the parent decides. PR_SET_PDEATHSIG is 1; it follows the thread that started the
# server. getppid detects a parent that died before prctl took effect.
PROGRAM = """\
import ctypes, os, pickle, signal, socket, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, {blocked})
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
if os.getppid() != {parent}: os._exit(1)
with open({setup}, "rb") as file: sys.path[:], preload = pickle.load(file)
from asyncopt.run import forks
forks.serve(socket.socket(fileno={line}), preload)
"""

# Fields of /proc/*/status that a process inherits from the one that starts it.
TAKEN_OVER = ("Umask:", "Uid:", "Gid:", "Groups:", "SigBlk:", "SigIgn:", "CapEff:", "NoNewPrivs:")


class ForkServer:
    """Handle of a server. The server ends with this object, or with this process.

    Any thread may fork from it. Each request has its own channel, so threads do not wait for each
    other, and an abandoned request leaves nothing behind.

    Args:
        environment: the whole environment of the server and its forks.
        preload: names of modules that it imports.

    Attributes:
        setting: everything that its forks inherit. A server serves only requests with equal ones.
        pid: its process id.
        has_forked: whether it has forked, which implies that its imports succeeded.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str]) -> None:
        self.setting = _setting(environment, preload)
        self._line, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(LONGEST)
        released = threading.Event()
        with far_end, _memory_file(pickle.dumps((sys.path, list(preload)))) as setup:
            self._process = _start(far_end.fileno(), setup.fileno(), environment, released)
        self.pid = self._process.pid
        self.has_forked = False
        self._end = weakref.finalize(self, _end, self._process, self._line, released, os.getpid())

    def fileno(self) -> int:
        """File descriptor of the connection to the server."""
        return self._line.fileno()

    @property
    def alive(self) -> bool:
        """True while the server runs. Reading this reaps a server that has ended."""
        return self._end.alive and self._process.poll() is None

    def fork(
        self,
        cpus: Sequence[int],
        stream: Stream,
        start: int,
        fds: Sequence[int],
        patience: float,
    ) -> Fork:
        """Make a worker process.

        Args:
            cpus: CPUs to which the process is pinned; empty: those of this thread.
            stream: random stream that it starts with.
            start: descriptor of the pipe that it reads its job from, as in
                ``multiprocessing.spawn``.
            fds: further descriptors to send to it.
            patience: s to wait for a server that is still importing.

        Raises:
            TimeoutError: the server was still importing after ``patience``.
            ImportError: a module to preload cannot be imported, or makes forks unsafe.
            KeyboardInterrupt: Ctrl-C during a run.
            ChildProcessError: the server has ended.
            OSError: too many processes or descriptors.
        """
        stdio = tuple(fd for fd in range(3) if _is_open(fd))
        tracker = cpython.tracker()
        tracked = () if tracker is None else (tracker,)
        request = Request(
            tuple(cpus) or tuple(os.sched_getaffinity(0)),
            stream,
            {name: value for name in NOT_READ if (value := os.environ.get(name)) is not None},
            stdio,
            bool(tracked),
        )
        channel, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with channel:
            try:
                with far_end:
                    # The whole request is sent before the server is notified of it.
                    send(channel, request, [*stdio, start, *tracked, *fds])
                    send(self._line, None, [far_end.fileno()])
                if not wait([channel], min(patience, LONGEST)):
                    raise TimeoutError
                answer, got = receive(channel)
            except (HungUp, BrokenPipeError, ConnectionResetError) as error:
                raise self._death() from error
        if isinstance(answer, Exception):
            raise answer
        self.has_forked = True
        pidfd, status = got
        return Fork(answer, pidfd, status)

    def _death(self) -> OSError:
        """The error of a server that hung up."""
        try:
            self._process.wait(END_GRACE)
        except subprocess.TimeoutExpired:
            return OSError(errno.EMFILE, "starting a worker: the fork server is out of descriptors")
        self._end()
        return ChildProcessError(
            "starting a worker: expected a process that imports asyncopt, got one that ended "
            f"with exit code {self._process.returncode}; its stderr says more"
        )


def _memory_file(content: bytes) -> IO[bytes]:
    """Unnamed file with ``content``, open at offset 0. A socket record holds at most 200 KiB."""
    file = open(os.memfd_create("asyncopt-setup", os.MFD_CLOEXEC), "w+b")  # noqa: SIM115
    file.write(content)
    file.seek(0)
    return file


def _start(
    line: int, setup: int, environment: Mapping[str, str], released: threading.Event
) -> subprocess.Popen[bytes]:
    """Start a server from a thread that runs until this process ends or ``released`` is set.

    The main thread is such a thread. Any other caller starts a thread that only waits.
    """

    def start() -> subprocess.Popen[bytes]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            command = spawn.get_command_line(pipe_handle=0)
            command[command.index("-c") + 1] = PROGRAM.format(
                blocked=set(map(int, before)), parent=os.getpid(), line=line, setup=setup
            )
            return subprocess.Popen(
                command,
                env=environment,
                pass_fds=[line, setup],
                stdin=subprocess.DEVNULL,
                stdout=None if _is_open(1) else subprocess.DEVNULL,
                stderr=None if _is_open(2) else subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    if threading.get_native_id() == os.getpid():
        return start()
    started: Future[subprocess.Popen[bytes]] = Future()

    def own() -> None:
        try:
            started.set_result(start())
        except BaseException as error:
            started.set_exception(error)
        else:
            released.wait()

    threading.Thread(target=own, name=OWNER, daemon=True).start()
    return started.result()


def _end(
    process: subprocess.Popen[bytes], line: socket.socket, released: threading.Event, parent: int
) -> None:
    line.close()
    if os.getpid() != parent:  # a forked child, which must not end its parent's server
        process.returncode = 0
        return
    with contextlib.suppress(PermissionError):  # another user now; closing the line ends the server
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_GRACE)
    released.set()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _setting(environment: Mapping[str, str], preload: Sequence[str]) -> tuple[object, ...]:
    return (
        {name: value for name, value in environment.items() if name not in NOT_READ},
        spawn.get_command_line(pipe_handle=0),
        os.getpid(),
        os.getpgrp(),
        os.getpriority(os.PRIO_PROCESS, 0),
        Path("/proc/thread-self/limits").read_text(),
        [line for line in _status() if line.startswith(TAKEN_OVER)],
        [os.getcwd(), *sys.path, *map(_version, preload)] if preload else [],
    )


def _status() -> list[str]:
    return Path("/proc/thread-self/status").read_text().splitlines()


def _version(name: str) -> tuple[object, ...]:
    """Version of a module's file, if this process has imported it: path, time and size."""
    file: Any = getattr(sys.modules.get(name), "__file__", None)
    try:
        found = os.stat(file)
    except (OSError, TypeError):
        return (name,)
    return name, file, found.st_mtime_ns, found.st_size


class _Kept:
    """The servers of this process, the most recently used last.

    Attributes:
        lock: guards ``servers``.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.servers: list[ForkServer] = []


kept = _Kept()
# A forked child lacks the thread that may hold the lock, and must not end its parent's servers.
os.register_at_fork(after_in_child=kept.__init__)  # type: ignore[misc]


def fork(
    environment: Mapping[str, str],
    preload: Sequence[str],
    cpus: Sequence[int],
    stream: Stream,
    start: int,
    fds: Sequence[int],
    patience: float,
) -> tuple[ForkServer, Fork]:
    """Make a worker process, which ends when its server does.

    Args:
        environment: variables to change in the environment of this process.
        preload: names of modules that the server imports first.
        cpus: CPUs to which the process is pinned; see :meth:`ForkServer.fork`, also for the rest.
        stream: random stream that the process starts with.
        start: descriptor of the pipe that the process reads its job from.
        fds: further descriptors to send to the process.
        patience: s to wait for a server that is still importing.

    Raises:
        ImportError, KeyboardInterrupt, OSError: as from :meth:`ForkServer.fork`.
    """
    while True:
        server = _server_for(os.environ | environment, preload)
        try:
            return server, server.fork(cpus, stream, start, fds, patience)
        except ChildProcessError:
            if not server.has_forked:  # else it was killed in the meantime, and a new one serves
                raise
        except ImportError:
            _forget(server)  # the module may be fixed before the next launch
            raise


def stop_fork_server() -> None:
    """End the fork server of worker processes and free its memory, about 150 MiB.

    The next ``launch``, ``map_tasks`` or ``cross_validate`` starts another one, which imports torch
    and the modules of ``preload`` again. While workers run, their server ends with the last of
    them. Without this call the server ends with this process.
    """
    with kept.lock:
        servers, kept.servers = kept.servers, []
    del servers  # each ends with the last reference to it


def _server_for(environment: Mapping[str, str], preload: Sequence[str]) -> ForkServer:
    """A server with the environment, limits and user that this process has now; started if needed.

    The last two are kept: runs with one worker and with two differ in ``OMP_NUM_THREADS``.
    """
    setting = _setting(environment, preload)
    with kept.lock:
        for server in kept.servers:
            if server.setting == setting and server.alive:
                break
        else:
            server = ForkServer(environment, preload)
        others = [other for other in kept.servers if other is not server and other.alive]
        kept.servers = [*others[1 - KEPT :], server]  # running forks also hold their server
    return server


def _forget(server: ForkServer) -> None:
    with kept.lock:
        kept.servers = [other for other in kept.servers if other is not server]
