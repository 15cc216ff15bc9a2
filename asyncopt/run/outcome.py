"""The outcome of one worker, as reported to the caller of ``launch``."""

from __future__ import annotations

import pickle
import signal
import traceback
from dataclasses import dataclass
from typing import Any

from asyncopt.errors import WorkerError
from asyncopt.run.definitions import dumps

__all__ = ["Failure", "Loss", "Outcome", "describe", "format_traceback", "portable", "stillborn"]


@dataclass(frozen=True)
class Failure:
    """Why a worker did not return.

    Attributes:
        rank: the worker.
        message: one sentence for the user.
        traceback: text of the worker's traceback, or "".
        cause: the worker's exception, if it reached the parent.
        when: time of the failure on the machine's monotonic clock, in seconds.
        hopeless: True if a replacement would fail in the same way.
    """

    rank: int
    message: str
    traceback: str
    cause: BaseException | None
    when: float
    hopeless: bool = False

    def error(self, more: str = "") -> WorkerError:
        """The exception to raise from ``cause``, its message followed by ``more``."""
        return WorkerError(self.message + more, rank=self.rank, traceback=self.traceback)


@dataclass(frozen=True)
class Loss:
    """A worker that ended before ``fn`` returned, in a run that continued.

    Attributes:
        rank: the worker.
        when: seconds from the start barrier; negative if it died before the barrier.
        cause: the reason, in words.
        traceback: text of its traceback; "" if it died without raising.
        replaced: whether another worker took its place.
        batch: index, in its round, of the batch that it was working on; None if it had none. A
            replacement, or under ``dispatch="dynamic"`` any other worker, takes it and the earlier
            batches that were not done. Under ``dispatch="static"`` without a replacement they are
            not trained.
        repairs: number of locks of a dead owner that others took over, from about this loss to the
            next; each may mean one partial push.
    """

    rank: int
    when: float
    cause: str
    traceback: str
    replaced: bool
    batch: int | None
    repairs: int


@dataclass(frozen=True)
class Outcome:
    """Results and losses of a run's workers.

    Attributes:
        results: what ``fn`` returned, in the order of ranks; None for workers lost for good.
        elapsed: seconds from the start barrier to the last return.
        restarts: how often each rank was replaced.
        losses: in the order in which they were noticed.
    """

    results: list[Any]
    elapsed: float
    restarts: tuple[int, ...]
    losses: tuple[Loss, ...]


def describe(rank: int, error: BaseException) -> str:
    """The message for a worker whose ``fn`` raised ``error``."""
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f"worker {rank} called sys.exit({code}) before fn returned; return from fn instead"
    return f"worker {rank} raised {''.join(traceback.format_exception_only(error)).strip()}"


def format_traceback(error: BaseException, skip: int = 0) -> str:
    """Text of ``error``'s traceback without its ``skip`` outermost frames, which are asyncopt's."""
    frames = error.__traceback__
    for _ in range(skip):
        frames = frames.tb_next if frames is not None else None
    return "".join(traceback.format_exception(type(error), error, frames))


def portable(error: BaseException) -> bytes | None:
    """``error`` pickled, or None if it cannot be unpickled; many exceptions cannot."""
    try:
        data = dumps(error)
        pickle.loads(data)
    except Exception:
        return None
    return data


def stillborn(rank: int, exitcode: int, *, started: bool) -> str:
    """The message for a worker that ended without a message."""
    if exitcode < 0:
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
