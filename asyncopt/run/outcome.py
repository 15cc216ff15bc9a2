"""What became of one worker, and how it is told to the caller of ``launch``."""

from __future__ import annotations

import pickle
import signal
import traceback
from dataclasses import dataclass

from asyncopt.errors import WorkerError

__all__ = ["Failure", "describe", "format_traceback", "portable", "stillborn"]


@dataclass(frozen=True)
class Failure:
    """Why a worker did not return.

    Attributes:
        rank: the worker.
        message: one sentence for people.
        traceback: text of the worker's traceback, or "".
        cause: the worker's exception, if it reached the parent.
        when: time of the failure on the machine's monotonic clock, in seconds.
    """

    rank: int
    message: str
    traceback: str
    cause: BaseException | None
    when: float

    def error(self) -> WorkerError:
        """The exception to raise from ``cause``."""
        return WorkerError(self.message, rank=self.rank, traceback=self.traceback)


def describe(rank: int, error: BaseException) -> str:
    """The message for a worker whose ``fn`` raised ``error``."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f"worker {rank} called sys.exit({code}) before fn returned; return from fn instead"
    return f"worker {rank} raised {''.join(traceback.format_exception_only(error)).strip()}"


def format_traceback(error: BaseException, skip: int = 0) -> str:
    """The text of ``error``'s traceback without its ``skip`` outermost frames, which are ours."""
    frames = error.__traceback__
    for _ in range(skip):
        frames = frames.tb_next if frames is not None else None
    return "".join(traceback.format_exception(type(error), error, frames))


def portable(error: BaseException) -> bytes | None:
    """``error`` pickled, or None if it would not arrive: many exceptions pickle one way only."""
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data


def stillborn(rank: int, exitcode: int | None, *, started: bool) -> str:
    """The message for a worker process that ended without a word."""
    if exitcode is not None and exitcode < 0:
        try:
            name = signal.Signals(-exitcode).name
        except ValueError:
            name = "a signal"
        hint = "; the kernel sends it when memory runs out" if name == "SIGKILL" else ""
        text = f"worker {rank} was killed by {name} (signal {-exitcode}){hint}"
    else:
        text = f"worker {rank} exited with code {exitcode} before fn returned"
    if not started:
        text += (
            "; it had not started yet: its stderr says more. A script that calls launch needs "
            'its call under `if __name__ == "__main__":`'
        )
    return text
