"""The launcher's handle of a worker: messages to and from it, and control of its end."""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from typing import Any

from asyncopt.run.entry import Box

__all__ = ["Member", "dismiss", "join"]

TERM_GRACE = 5.0  # s for a worker that is asked to end
KILL_GRACE = 10.0  # s for the kernel to clear a killed process away


class Member(abc.ABC):
    """One worker, from its start to its end; a replacement is another member of its rank.

    Attributes:
        rank: its rank.
        pipe: the launcher's end; `asyncopt.run.entry.run_worker` lists the messages.
        far_end: the worker's end.
        box: for objects that are too large for the pipe.
        ready: True once it has reached the start barrier.
    """

    box: Box

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ready = False
        self.pipe, self.far_end = Pipe()
        self.hung_up = False

    @abc.abstractmethod
    def start(self) -> None:
        """Start it."""

    @property
    @abc.abstractmethod
    def task(self) -> int | None:
        """Process id, or thread id for a thread; None before its start."""

    @property
    @abc.abstractmethod
    def process_id(self) -> int | None:
        """Id of its process; None before its start and after its end."""

    @property
    @abc.abstractmethod
    def exitcode(self) -> int | None:
        """Exit code, negative for a signal; None before its end."""

    @property
    @abc.abstractmethod
    def sentinel(self) -> int | None:
        """A descriptor that is readable once it has ended; None for a thread."""

    @abc.abstractmethod
    def failure(self) -> tuple[str, str, BaseException | None]:
        """Message, traceback and, if it could be pickled, the exception that ended it.

        Call it once, after the message "failed".
        """

    @abc.abstractmethod
    def terminate(self) -> None:
        """Ask it to end."""

    @abc.abstractmethod
    def kill(self) -> bool:
        """Kill it; False if that is impossible."""

    @abc.abstractmethod
    def join(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for its end, and release its system resources."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release the launcher's resources for it."""

    @property
    def alive(self) -> bool:
        """True if it has started and not ended."""
        return self.task is not None and self.exitcode is None

    def send(self, *words: object) -> None:
        """Send it a message."""
        with contextlib.suppress(OSError):  # it died; its sentinel reports that
            self.pipe.send(words)

    def words(self) -> Iterator[tuple[Any, ...]]:
        """Messages since the last call."""
        while not self.hung_up and self.pipe.poll():
            try:
                yield self.pipe.recv()
            except (EOFError, OSError):
                self.hung_up = True


def join(members: Sequence[Member], grace: float) -> None:
    """Wait for all ``members`` to end, ``grace`` seconds at most."""
    deadline = time.monotonic() + grace
    for member in members:
        member.join(max(0.0, deadline - time.monotonic()))


def dismiss(members: Sequence[Member]) -> list[int]:
    """End all ``members``, and release their resources.

    Returns:
        The ranks of those still alive: threads that stay in native code.
    """
    alive = [member for member in members if member.alive]
    try:
        for member in alive:
            member.terminate()
        join(alive, TERM_GRACE)
    finally:  # also when a second Ctrl-C cuts the grace short
        join([member for member in members if member.alive and member.kill()], KILL_GRACE)
        left = [member.rank for member in members if member.alive]
        for member in members:
            member.close()
    return left
