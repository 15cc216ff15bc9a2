"""Memory between a worker process and its launcher: the errand there, what came of it back."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Mapping
from multiprocessing import reduction
from typing import IO, Any

from asyncopt.errors import AsyncoptError
from asyncopt.run.life import Errand
from asyncopt.run.outcome import format_traceback, portable

__all__ = ["Mailbox", "unpicklable"]


class Mailbox:
    """Memory for one message at a time between parent and child: an errand there, a result back.

    A memfd without a name, readable by its owner only, freed with its last descriptor. Neither side
    ever waits for the other to read, however large the message is.
    """

    def __init__(self, fd: int | None = None) -> None:
        if fd is None:
            fd = os.memfd_create("asyncopt-mailbox", os.MFD_CLOEXEC)
            os.fchmod(fd, 0o600)
        self._fd = fd

    def put(self, write: Callable[[IO[bytes]], object]) -> None:
        """Put in what ``write`` writes, in place of what was there."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd, "wb", closefd=False) as file:
            write(file)

    def put_errand(self, errand: Errand) -> None:
        """Put in what a worker is to do.

        Tensors (torch registers reducers for them when it is imported) and asyncopt's memory go by
        descriptor, so this can only be done while a child is being spawned.

        Raises:
            TypeError: some part cannot be pickled; the message names it.
        """
        try:
            self.put(lambda file: errand.arrays.pickler(file).dump(errand))
        except (OSError, MemoryError, AsyncoptError):
            raise
        except Exception as error:
            parts = {
                "fn": errand.fn,
                **{f"args[{i}]": arg for i, arg in enumerate(errand.args)},
                "delay": errand.plan.delay,
            }
            name, part = unpicklable(parts) or ("args", errand.args)
            raise TypeError(
                f"{name}: expected an object that pickle can send to another process, got "
                f"{_kind(part)} ({error}); build it inside fn, or use mode='thread'"
            ) from error

    def put_result(self, result: object) -> None:
        """Put in what ``fn`` returned.

        By plain pickle: tensors go by value, so that no descriptor outlives this process.

        Raises:
            TypeError: it cannot be pickled.
        """
        try:
            data = pickle.dumps(result)
        except Exception as error:
            raise TypeError(
                f"result of fn: expected an object that pickle can send, got "
                f"{type(result).__name__} ({error}); return plain data or tensors"
            ) from error
        self.put(lambda file: file.write(data))

    def put_failure(self, message: str, error: BaseException) -> None:
        """Put in what ended the worker: in words, with its traceback, and itself if it pickles."""
        report = (message, format_traceback(error, skip=1), portable(error))
        self.put(lambda file: pickle.dump(report, file))

    def take(self) -> Any:
        """Unpickle what is in it and free the memory."""
        os.lseek(self._fd, 0, os.SEEK_SET)  # parent and child share one file offset
        with open(self._fd, "rb", closefd=False) as file:
            message = pickle.load(file)
        os.ftruncate(self._fd, 0)
        return message

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[Callable[[Any], Mailbox], tuple[Any]]:
        return _open_mailbox, (reduction.DupFd(self._fd),)


def _open_mailbox(descriptor: Any) -> Mailbox:
    return Mailbox(descriptor.detach())


def unpicklable(parts: Mapping[str, object]) -> tuple[str, object] | None:
    """Name and value of the first of ``parts`` that cannot be pickled; None: each of them can."""
    for name, part in parts.items():
        try:
            reduction.ForkingPickler(io.BytesIO()).dump(part)
        except Exception:
            return name, part
    return None


def _kind(part: object) -> str:
    return getattr(part, "__qualname__", None) or f"an object of type {type(part).__name__}"
