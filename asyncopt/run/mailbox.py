"""Shared memory that carries the task to a worker process and the result back."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import reduction
from typing import IO, Any

from asyncopt.run.culprits import naming, reason
from asyncopt.run.entry import REBUILD, WorkerTask, parts_of
from asyncopt.run.outcome import format_traceback, portable
from asyncopt.run.payload import dumps_reply, load

__all__ = ["Mailbox"]


class Mailbox:
    """Memory for one message at a time: the task to the child, later the result to the parent.

    It is an unnamed memfd, readable by its owner only, and freed with its last descriptor. Writing
    never waits for the reader, however large the message is.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("asyncopt-mailbox", os.MFD_CLOEXEC)
            os.fchmod(fd, 0o600)
        self._fd = fd

    def put(self, write: Callable[[IO[bytes]], object]) -> None:
        """Replace the content by the output of ``write``."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd, "wb", closefd=False) as file:
            write(file)

    def put_task(self, task: WorkerTask) -> None:
        """Put in a worker's task.

        Shared memory is sent by descriptor, so this works only while a child is being spawned.

        Raises:
            SegmentError: there is no room for tensors and arrays.
            TypeError: some part cannot be pickled; the message names it.
        """
        with naming(parts_of(task.fn, task.args, task.plan), REBUILD):
            self.put(lambda file: task.payload.dump(task, file))

    def put_result(self, result: object) -> None:
        """Put in the return value of ``fn``.

        Tensors are sent by value, so that the result needs no descriptor of this process.

        Raises:
            TypeError: it cannot be pickled.
        """
        try:
            data = dumps_reply(result)
        except Exception as error:
            raise TypeError(
                f"result of fn: expected an object that pickle can send, got "
                f"{type(result).__name__} ({reason(result, error)}); return plain data or tensors"
            ) from error
        self.put(lambda file: file.write(data))

    def put_failure(self, message: str, error: BaseException) -> None:
        """Put in an error message, the traceback, and the exception itself if it can be pickled."""
        report = (message, format_traceback(error, skip=1), portable(error))
        self.put(lambda file: file.write(dumps_reply(report)))

    def take(self) -> Any:
        """Unpickle the content and free its memory."""
        os.lseek(self._fd, 0, os.SEEK_SET)  # parent and child share one file offset
        with open(self._fd, "rb", closefd=False) as file:
            message = load(file)
        os.ftruncate(self._fd, 0)
        return message

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[Callable[[Any], Mailbox], tuple[Any]]:
        return _open_mailbox, (reduction.DupFd(self._fd),)


def _open_mailbox(descriptor: Any) -> Mailbox:
    return Mailbox(descriptor.detach())
