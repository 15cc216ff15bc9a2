"""Measurements that workers write, in memory that outlives them."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from asyncopt.studies.progress import LINE, shared_zeros


class Trace(NamedTuple):
    """Log of a job over all its workers.

    seconds: from the first worker's start to the last one's last step.
    points: (seconds since that start, loss) of every mini-batch, in the order of their steps.
    """

    seconds: float
    points: list[tuple[float, float]]


class Log:
    """A record for each mini-batch that a worker has trained, and the start of each job.

    A replaced worker's successor appends to the records of its rank.

    Args:
        workers: number of workers.
        jobs: number of jobs.
        room: records of one worker at most.

    Attributes:
        starts: float64 (jobs, workers), seconds of the machine's monotonic clock; 0: not begun.
        moments: float64 (workers, room), the end of each step, by the same clock.
        losses: float32 (workers, room), of the mini-batch.
        jobs: int32 (workers, room), the job of the mini-batch.
        written: int64 (workers, 8), of which the first counts the worker's records.
    """

    def __init__(self, workers: int, jobs: int, room: int) -> None:
        self.starts = shared_zeros(jobs, workers, dtype=torch.float64)
        self.moments = shared_zeros(workers, room, dtype=torch.float64)
        self.losses = shared_zeros(workers, room, dtype=torch.float32)
        self.jobs = shared_zeros(workers, room, dtype=torch.int32)
        self.written = shared_zeros(workers, LINE)

    def trace(self, job: int) -> Trace:
        """The records of all workers of a job, which each has begun."""
        moments, losses = [], []
        for rank, count in enumerate(self.written[:, 0].tolist()):
            own = self.jobs[rank, :count] == job
            moments.append(self.moments[rank, :count][own])
            losses.append(self.losses[rank, :count][own])
        when, loss = torch.cat(moments), torch.cat(losses)
        order = when.argsort()
        since = when[order] - self.starts[job].min()
        return Trace(float(since[-1]), list(zip(since.tolist(), loss[order].tolist(), strict=True)))


class LogWriter:
    """A worker's end of a `Log`; a record costs less than a microsecond."""

    def __init__(self, log: Log, rank: int) -> None:
        self._starts = log.starts.numpy()[:, rank]  # views; indexing them is cheaper than a tensor
        self._moments = log.moments.numpy()[rank]
        self._losses = log.losses.numpy()[rank]
        self._jobs = log.jobs.numpy()[rank]
        self._written = log.written.numpy()[rank]

    def start(self, job: int) -> None:
        """The worker begins a job, unless a worker of its rank has before."""
        if self._starts[job] == 0:
            self._starts[job] = time.perf_counter()

    def write(self, job: int, loss: float) -> None:
        """A mini-batch has been trained."""
        place = self._written[0]
        self._moments[place] = time.perf_counter()
        self._losses[place] = loss
        self._jobs[place] = job
        self._written[0] = place + 1  # last: a record that was cut short is written again
