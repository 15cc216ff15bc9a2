"""Fork server for worker processes.

The server imports torch and asyncopt once, then forks one child per worker. A fork starts in
milliseconds and shares the imported memory; a spawned process needs about 1.7 s and 150 MiB.

Forking is safe here because the server only imports modules. It has no OpenMP threads, no autograd
threads and no CUDA context whose locks a child could inherit. Libraries that start threads at
import, such as OpenBLAS, register fork handlers.

This module is the client side; :mod:`asyncopt.run.forks` runs in the server.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing import resource_tracker, spawn
from pathlib import Path

from asyncopt.run.forks import RECORD, UNHEEDED, Fork, HungUp, Request, receive, send
from asyncopt.run.life import LONGEST
from asyncopt.run.random_states import Stream

__all__ = ["ForkServer", "fork", "kept"]

KEPT = 2
END_GRACE = 10.0  # s for a server that hung up or was killed to be gone

# Runs before the server imports anything but the standard library. PR_SET_PDEATHSIG is 1; it
# follows the thread that started the server, which is the one that waits in launch. A parent that
# died before prctl took effect is seen by getppid. Ctrl-C, which a terminal sends to parent and
# children alike, is ignored: the parent decides.
PROGRAM = f"""\
import ctypes, os, pickle, signal, socket, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)
if os.getppid() != {{parent}}: os._exit(1)
line = socket.socket(fileno={{line}})
sys.path[:] = pickle.loads(line.recv({RECORD}))
from asyncopt.run import forks
forks.serve(line)
"""

# Of /proc/*/status: what a process takes over from the one that starts it, beside its environment.
TAKEN_OVER = ("Umask:", "Uid:", "Gid:", "Groups:", "SigBlk:", "SigIgn:", "CapEff:", "NoNewPrivs:")


class ForkServer:
    """A server's parent's hold on it. It ends when this object or the thread that made it does.

    Args:
        environment: all variables of its environment, and of its forks'.

    Attributes:
        setting: what its forks take over from it.
        pid: its process id.
        has_forked: whether it has, so that what it imports is there.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.setting = _setting(environment)
        self._line, far_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far_end:
            command = spawn.get_command_line(pipe_handle=0)
            program = PROGRAM.format(parent=os.getpid(), line=far_end.fileno())
            command[command.index("-c") + 1] = program
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[far_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=None if _is_open(1) else subprocess.DEVNULL,
                stderr=None if _is_open(2) else subprocess.DEVNULL,
            )
        self.pid = self._process.pid
        self.has_forked = False
        self._end = weakref.finalize(self, _end, self._process, self._line, os.getpid())
        with contextlib.suppress(OSError):  # it has died; its fork tells
            self._line.send(pickle.dumps(sys.path))

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
        try:
            self._line.settimeout(min(patience, LONGEST))
            send(self._line, request, [*stdio, start, *tracked, *fds])
            answer, got = receive(self._line)
        except (HungUp, BrokenPipeError, ConnectionResetError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_GRACE)
            self._end()
            raise ChildProcessError(
                "starting a worker: expected a process that imports asyncopt, got one that ended "
                f"with exit code {self._process.returncode}; its stderr says more"
            ) from error
        except BaseException:
            self._end()  # its answer may still come
            raise
        if isinstance(answer, OSError):
            raise answer
        self.has_forked = True
        pidfd, status = got
        return Fork(answer, pidfd, status)


def _end(process: subprocess.Popen[bytes], line: socket.socket, parent: int) -> None:
    line.close()
    if os.getpid() != parent:  # a fork of it, which has no say
        process.returncode = 0
        return
    with contextlib.suppress(PermissionError):  # this process is another user now: the hang-up does
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_GRACE)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _setting(environment: Mapping[str, str]) -> tuple[object, ...]:
    return (
        {name: value for name, value in environment.items() if name not in UNHEEDED},
        spawn.get_command_line(pipe_handle=0),
        os.getpid(),
        os.getpgrp(),
        os.getpriority(os.PRIO_PROCESS, 0),
        Path("/proc/thread-self/limits").read_text(),
        [line for line in _status() if line.startswith(TAKEN_OVER)],
    )


def _status() -> list[str]:
    return Path("/proc/thread-self/status").read_text().splitlines()


class _Kept(threading.local):
    """This thread's servers, the last one used at the end."""

    def __init__(self) -> None:
        self.servers: list[ForkServer] = []


kept = _Kept()


def fork(
    environment: Mapping[str, str],
    cpus: Sequence[int],
    stream: Stream,
    start: int,
    fds: Sequence[int],
    patience: float,
) -> tuple[ForkServer, Fork]:
    """Make a worker process, which ends when its server does.

    Args:
        environment: variables to change in the environment of this process.
        cpus: as for :meth:`ForkServer.fork`, as are the others.
        stream: random numbers.
        start: a descriptor.
        fds: further ones.
        patience: in s.

    Raises:
        OSError: as from :meth:`ForkServer.fork`.
    """
    while True:
        server = _server_for(os.environ | environment)
        try:
            return server, server.fork(cpus, stream, start, fds, patience)
        except ChildProcessError:
            if not server.has_forked:  # else it was killed in the meantime, and a new one serves
                raise


def _server_for(environment: Mapping[str, str]) -> ForkServer:
    """A server of this thread whose forks are as new processes would be.

    The last two are kept: runs with one worker and with two differ in ``OMP_NUM_THREADS``.
    """
    setting = _setting(environment)
    for server in kept.servers:
        if server.setting == setting and server.alive:
            break
    else:
        server = ForkServer(environment)
    others = [other for other in kept.servers if other is not server and other.alive]
    kept.servers = [*others[1 - KEPT :], server]  # who holds forks of another one holds that, too
    return server
