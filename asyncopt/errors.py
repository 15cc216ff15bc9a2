"""The exceptions of asyncopt.

Bad arguments raise ``TypeError`` or ``ValueError``; most classes here are for failures while memory
is shared and workers run. Messages read
``argument: expected X, got Y; remedy``.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "ArgumentTypeError",
    "AsyncoptError",
    "CheckpointError",
    "DeviceError",
    "DownloadError",
    "LockTimeout",
    "PeerError",
    "RunTimeout",
    "SegmentError",
    "TaskError",
    "WorkerError",
]


class ArgumentTypeError(TypeError, ValueError):
    """An argument has the wrong type. A ValueError too, as scikit-learn's of that kind are."""


class AsyncoptError(Exception):
    """Base class of every exception that asyncopt defines."""


class CheckpointError(AsyncoptError, RuntimeError):
    """A checkpoint cannot be written, is damaged, or does not fit what it is loaded into."""


class DeviceError(AsyncoptError, RuntimeError):
    """A device failed or is out of memory; the message names device, call and error."""


class DownloadError(AsyncoptError, OSError):
    """A file cannot be had from the network, or is not the one that was asked for."""


class SegmentError(AsyncoptError, RuntimeError):
    """A shared segment cannot be made, is damaged, or belongs to another build or PID namespace."""


class LockTimeout(AsyncoptError, TimeoutError):
    """A lock of the store was not free within its deadline; the message names its owner.

    If ``step()`` raises it, the next ``step()`` finishes the interrupted one and repeats no update.
    Call it again with the same gradients to take the step once. Other gradients update only what is
    missing: under ``striped``, the elements that the interrupted step had not reached; under a sync
    with replicas, nothing if the push had already been applied, and the call only copies the
    parameters. The ledger counts a partly written step as ``unfinished`` until it is finished.

    If ``pull()`` raises it, the replica is as it was, or the message says that it has parts of
    several versions now. ``step()`` then refuses their gradients until a ``pull()`` has succeeded.
    """


class PeerError(AsyncoptError, RuntimeError):
    """An exchange between the ranks of a process group failed.

    Args:
        message: what was being exchanged, with whom, and what the backend said.
        ranks: the ranks of the group, as the default group counts them.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks

    def __reduce__(self) -> tuple[type[PeerError], tuple[str, tuple[int, ...]]]:
        return PeerError, (str(self), self.ranks)


class RunTimeout(AsyncoptError, TimeoutError):
    """A run, its start-up or a barrier missed its deadline, or cannot meet it any more.

    Args:
        message: what was waited for, and who is missing.
        ranks: the workers that had not arrived or finished.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.ranks = ranks

    def __reduce__(self) -> tuple[type[RunTimeout], tuple[str, tuple[int, ...]]]:
        return RunTimeout, (str(self), self.ranks)


class WorkerError(AsyncoptError, RuntimeError):
    """A worker of a run raised an exception or died.

    ``str()`` of it holds the message and, below it, the worker's traceback; ``__cause__`` is the
    worker's own exception where that could be sent between processes.

    Args:
        message: one sentence naming the worker and what happened to it.
        rank: the worker's rank.
        traceback: the text of the worker's traceback; empty when it died without raising.
    """

    def __init__(self, message: str, rank: int | None = None, traceback: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.rank = rank
        self.traceback = traceback

    def __str__(self) -> str:
        if not self.traceback:
            return self.message
        return f"{self.message}\n\n-- traceback of worker {self.rank} --\n{self.traceback.rstrip()}"

    def __reduce__(self) -> tuple[type[WorkerError], tuple[Any, ...]]:
        return WorkerError, (self.message, self.rank, self.traceback)


class TaskError(WorkerError):
    """A task raised an exception, took too long, or ended its worker.

    Args:
        message: one sentence naming the task and the worker, and what happened.
        task: the task's number, from 0 in the order given.
        rank: rank of the worker that ran it.
        traceback: the text of the worker's traceback; empty when it died without raising.
    """

    def __init__(
        self, message: str, task: int | None = None, rank: int | None = None, traceback: str = ""
    ) -> None:
        super().__init__(message, rank, traceback)
        self.task = task

    def __reduce__(self) -> tuple[type[TaskError], tuple[Any, ...]]:
        return TaskError, (self.message, self.task, self.rank, self.traceback)
