"""Turns: all programs are started and warmed up, and each trains only in its turn.

Each contender is a program with workers of its own. Every worker connects to the `Stage` and waits
in a read, using no core, until the stage gives its contender a turn. So start-up is off the clock,
contenders can be interleaved, and it does not matter how a contender starts its workers.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT = 120.0
"""Seconds to wait for a program to come up or to finish its turn."""


class Link:
    """Python objects over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT)
        self._connection = connection
        self._stream = connection.makefile("rwb")

    def send(self, message: Any) -> None:
        pickle.dump(message, self._stream)
        self._stream.flush()

    def receive(self) -> Any:
        """The next object; EOFError if the other side is gone."""
        return pickle.load(self._stream)

    def patient(self) -> None:
        """Wait for ever in `receive`."""
        self._connection.settimeout(None)

    def close(self) -> None:
        self._stream.close()
        self._connection.close()


class Turns:
    """A worker's side: iterate over commands, `reply` to each."""

    def __init__(self, address: str, rank: int) -> None:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(address)
        self._link = Link(connection)
        self._link.patient()
        self._rank = rank

    def __iter__(self) -> Iterator[str]:
        """Commands of the stage, until it closes."""
        self.reply(self._rank)  # announces the worker
        while True:
            try:
                command: str = self._link.receive()
            except (EOFError, ConnectionResetError):
                return
            yield command

    def reply(self, answer: Any) -> None:
        self._link.send(answer)


class Stage:
    """The benchmark's side: starts the programs and gives them turns."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the sockets are made; private to the user, its path short (108 bytes)."""
        self._folder = folder
        self._listeners: dict[str, socket.socket] = {}
        self._links: dict[str, list[Link]] = {}
        self._programs: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, module: str, arguments: Sequence[str] = ()) -> None:
        """Run `python -m module ADDRESS ARGUMENTS`, where ADDRESS is for its workers' `Turns`."""
        address = str(self._folder / str(len(self._programs)))
        listener = self._listeners[name] = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(16)
        listener.settimeout(1.0)
        self._programs[name] = subprocess.Popen(
            [sys.executable, "-m", module, address, *arguments],
            start_new_session=True,  # so that its workers can be ended with it
        )

    def await_workers(self, name: str, workers: int) -> None:
        """Return when that many workers of `name` have connected."""
        ranked: dict[int, Link] = {}
        deadline = time.monotonic() + TIMEOUT
        while len(ranked) < workers:
            try:
                link = Link(self._listeners[name].accept()[0])
            except TimeoutError:
                code = self._programs[name].poll()
                if code is not None or time.monotonic() > deadline:
                    state = "is still running" if code is None else f"ended with {code}"
                    raise RuntimeError(
                        f"{name}: expected {workers} workers, {len(ranked)} came; it {state}"
                    ) from None
            else:
                ranked[link.receive()] = link
        self._links[name] = [ranked[rank] for rank in sorted(ranked)]

    def turn(self, name: str, command: str) -> list[Any]:
        """Give all workers of `name` a command at once; their answers in order of rank."""
        for link in self._links[name]:
            link.send(command)
        return [link.receive() for link in self._links[name]]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for links in self._links.values():
            for link in links:
                link.close()
        for listener in self._listeners.values():
            listener.close()
        codes: Mapping[str, int] = {name: end(p) for name, p in self._programs.items()}
        if kind is None:
            assert not any(codes.values()), f"programs ended with {codes}"


def end(program: subprocess.Popen[bytes]) -> int:
    """Wait for a program that has been told to stop; kill it and its workers if it does not."""
    try:
        return program.wait(TIMEOUT / 4)
    except subprocess.TimeoutExpired:
        os.killpg(program.pid, signal.SIGKILL)
        return program.wait()
