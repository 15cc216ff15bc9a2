"""Fault injection: workers are killed in the middle of their work."""

from __future__ import annotations

import math
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from asyncopt.studies.errors import StudyError
from asyncopt.studies.progress import shared_zeros

RESTARTS = 10_000  # of one rank; the next death ends the run
AT_REST = -1
INSTANT = 1e-6  # s: the shortest time that a timer runs


class Kills:
    """Times at which workers are killed, and the number of kills.

    A worker's working time passes only while it trains, not while it starts up or waits for others,
    so a run makes progress however often its workers die.

    Args:
        workers: number of workers.
        jobs: number of jobs.
        rate: kills per second of a worker's working time, a Poisson process; 0: none.
        seed: with the rank and the number of the worker in its rank, decides when each dies.

    Attributes:
        counts: int64 (jobs, workers), kills.
        at_work: int64 (workers,), the job that is being trained, or -1.
        lives: int64 (workers,), number of workers that each rank has had.
    """

    def __init__(self, workers: int, jobs: int, rate: float, seed: int) -> None:
        self.rate = rate
        self.seed = seed
        self.counts = shared_zeros(jobs, workers)
        self.at_work = shared_zeros(workers).fill_(AT_REST)
        self.lives = shared_zeros(workers)

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of ``launch`` with which a run survives them."""
        return {"on_error": "restart", "retries": RESTARTS} if self.rate else {}

    @contextmanager
    def expected(self) -> Iterator[None]:
        """While the block runs, kills cause no warning; any other loss of a worker ends it.

        Raises:
            StudyError: a worker was lost in another way.
        """
        if not self.rate:
            yield
            return
        killed = rf"worker \d+ was killed by {signal.SIGALRM.name} "
        with warnings.catch_warnings():
            warnings.filterwarnings("error", r"worker \d+ .*; it is replaced in ", RuntimeWarning)
            warnings.filterwarnings("ignore", killed, RuntimeWarning)
            try:
                yield
            except RuntimeWarning as loss:
                cause = re.split("; it is replaced in ", str(loss))[0]
                raise StudyError(
                    f"{cause}, and not by this study; run it without --kill-rate to see why"
                ) from loss


class KillTimer:
    """A worker's end of `Kills`: a timer that runs while the worker trains.

    The kernel's timer ends the process at any instruction, also within a push. A thread that kills
    would have to wait for the GIL first.
    """

    def __init__(self, kills: Kills, rank: int) -> None:
        self._at_work = kills.at_work.numpy()[rank : rank + 1]
        if self._at_work[0] != AT_REST:  # a predecessor was killed in that job
            kills.counts[self._at_work[0], rank] += 1
            self._at_work[0] = AT_REST
        dice = np.random.default_rng((kills.seed, rank, int(kills.lives[rank])))
        kills.lives[rank] += 1
        self._left = dice.exponential(1 / kills.rate) if kills.rate else math.inf
        if kills.rate:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a parent may have had it ignored

    @contextmanager
    def running(self, job: int) -> Iterator[None]:
        """The worker trains a job."""
        self._at_work[0] = job
        if self._left < math.inf:
            signal.setitimer(signal.ITIMER_REAL, self._left)
        try:
            yield
        finally:
            if self._left < math.inf:
                self._left = max(signal.setitimer(signal.ITIMER_REAL, 0)[0], INSTANT)
            self._at_work[0] = AT_REST
