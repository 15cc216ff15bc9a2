"""Fork server for worker processes.

The server imports torch and asyncopt once, then forks one child per worker. A fork starts in
milliseconds and shares the imported memory; a spawned process needs about 1.7 s and 150 MiB.

Forking is safe here because the server only imports modules. It has no OpenMP threads, no autograd
threads and no CUDA context whose locks a child could inherit. Libraries that start threads at
import, such as OpenBLAS, register fork handlers. The user's modules are imported there only where
``launch(preload=...)`` names them: a file, a connection or a thread that a module opens at import
would be shared by all workers, which nothing could see.

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
from multiprocessing import resource_tracker, spawn
from pathlib import Path
from typing import Any

from asyncopt.run.forks import RECORD, UNHEEDED, Fork, HungUp, Request, receive, send
from asyncopt.run.interrupts import wait
from asyncopt.run.life import LONGEST
from asyncopt.run.random_states import Stream

__all__ = ["OWNER", "ForkServer", "fork", "kept", "stop_fork_server"]

KEPT = 2
END_GRACE = 10.0  # s for a server that hung up or was killed to be gone
OWNER = "asyncopt-fork-server"  # name of the threads that own servers

# Runs before the server imports anything but the standard library. SIGINT comes blocked, so that a
# Ctrl-C, which a terminal sends to parent and children alike, cannot end the interpreter while it
# starts; the parent decides. PR_SET_PDEATHSIG is 1; it follows the thread that started the server.
# A parent that died before prctl took effect is seen by getppid.
PROGRAM = f"""\
import ctypes, os, pickle, signal, socket, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, {{blocked}})
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
if os.getppid() != {{parent}}: os._exit(1)
line = socket.socket(fileno={{line}})
sys.path[:], preload = pickle.loads(line.recv({RECORD}))
from asyncopt.run import forks
forks.serve(line, preload)
"""

# Of /proc/*/status: what a process takes over from the one that starts it, beside its environment.
TAKEN_OVER = ("Umask:", "Uid:", "Gid:", "Groups:", "SigBlk:", "SigIgn:", "CapEff:", "NoNewPrivs:")


class ForkServer:
    """Handle of a server. The server ends with this object, or with this process.

    Any thread may fork from it. A request travels over a channel of its own, so that threads do not
    wait for each other, and one that gives up leaves nothing behind.

    Args:
        environment: all variables of its environment, and of its forks'.
        preload: names of modules that it imports.

    Attributes:
        setting: what its forks take over from it.
        pid: its process id.
        has_forked: whether it has, so that what it imports is there.
    """

    def __init__(self, environment: Mapping[str, str], preload: Sequence[str]) -> None:
        self.setting = _setting(environment, preload)
        self._line, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.settimeout(LONGEST)
        released = threading.Event()
        with far_end:
            self._process = _start(far_end.fileno(), environment, released)
        self.pid = self._process.pid
        self.has_forked = False
        self._end = weakref.finalize(self, _end, self._process, self._line, released, os.getpid())
        with contextlib.suppress(OSError):  # it has died; its fork tells
            self._line.send(pickle.dumps((sys.path, list(preload))))

    def fileno(self) -> int:
        """Of its line."""
        return self._line.fileno()

    @property
    def alive(self) -> bool:
        """Whether it lives; looking at it reaps a dead one."""
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
            cpus: to which it is pinned; empty: to those of this thread.
            stream: its first random numbers.
            start: descriptor of the pipe that it starts from, as ``multiprocessing.spawn`` has it.
            fds: further descriptors that it is sent.
            patience: s to wait for a server that is still importing.

        Raises:
            TimeoutError: it was still importing then.
            ImportError: a module to preload cannot be imported, or makes forks unsafe.
            KeyboardInterrupt: Ctrl-C, which a run has noted.
            ChildProcessError: it is dead.
            OSError: the system has no room for another process, or for the descriptors.
        """
        stdio = tuple(fd for fd in range(3) if _is_open(fd))
        tracker = getattr(resource_tracker._resource_tracker, "_fd", None)
        tracked = () if tracker is None else (tracker,)
        request = Request(
            tuple(cpus) or tuple(os.sched_getaffinity(0)),
            stream,
            {name: value for name in UNHEEDED if (value := os.environ.get(name)) is not None},
            stdio,
            bool(tracked),
        )
        channel, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with channel:
            try:
                with far_end:
                    # The whole request, before the server sees that there is one.
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
            return OSError(errno.EMFILE, "starting a worker: no descriptor is left to its server")
        self._end()
        return ChildProcessError(
            "starting a worker: expected a process that imports asyncopt, got one that ended "
            f"with exit code {self._process.returncode}; its stderr says more"
        )


def _start(
    line: int, environment: Mapping[str, str], released: threading.Event
) -> subprocess.Popen[bytes]:
    """Start a server, by a thread that lives as long as this process, or until ``released``.

    The first thread is one; else the server gets a thread that does nothing but wait.
    """

    def start() -> subprocess.Popen[bytes]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            command = spawn.get_command_line(pipe_handle=0)
            command[command.index("-c") + 1] = PROGRAM.format(
                blocked=set(map(int, before)), parent=os.getpid(), line=line
            )
            return subprocess.Popen(
                command,
                env=environment,
                pass_fds=[line],
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
    if os.getpid() != parent:  # a fork of it, which has no say
        process.returncode = 0
        return
    with contextlib.suppress(PermissionError):  # this process is another user now: the hang-up does
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
        {name: value for name, value in environment.items() if name not in UNHEEDED},
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
    """Changes when the file of a module does that this process has imported."""
    file: Any = getattr(sys.modules.get(name), "__file__", None)
    try:
        found = os.stat(file)
    except (OSError, TypeError):
        return (name,)
    return name, file, found.st_mtime_ns, found.st_size


class _Kept:
    """The servers of this process, the last one used at the end.

    Attributes:
        lock: guards ``servers``.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.servers: list[ForkServer] = []


kept = _Kept()
# A forked child has neither the thread that may hold the lock nor a say in the servers.
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
        preload: names of modules that are to be imported before.
        cpus: as for :meth:`ForkServer.fork`, as are the others.
        stream: random numbers.
        start: a descriptor.
        fds: further ones.
        patience: in s.

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
            _forget(server)  # the next launch may find the module mended
            raise


def stop_fork_server() -> None:
    """End the process from which workers are forked, and give back its memory, some 150 MiB.

    The next ``launch``, ``map_tasks`` or ``cross_validate`` starts another one, which imports torch
    and the modules of ``preload`` anew. While workers run, their server ends with the last of them.
    Without this call it ends with the process.
    """
    with kept.lock:
        servers, kept.servers = kept.servers, []
    del servers  # each ends with the last reference to it


def _server_for(environment: Mapping[str, str], preload: Sequence[str]) -> ForkServer:
    """A server of this process whose forks are as new processes would be.

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
        kept.servers = [*others[1 - KEPT :], server]  # forks of another one hold that, too
    return server


def _forget(server: ForkServer) -> None:
    with kept.lock:
        kept.servers = [other for other in kept.servers if other is not server]
