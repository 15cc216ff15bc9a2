"""One launch: all jobs with a number of workers, under given conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from asyncopt.run import launch
from asyncopt.run.board import Board
from asyncopt.run.delays import Delay
from asyncopt.studies.progress import Meter
from asyncopt.studies.training.jobs import Job, Shared, train
from asyncopt.studies.training.kills import RESTARTS, Kills
from asyncopt.studies.training.log import Log, Trace
from asyncopt.studies.training.networks import Data

TURNS = 64  # that the mean delay is taken over


@dataclass(frozen=True)
class Conditions:
    """Conditions of a launch.

    Attributes:
        mode: kind of worker, as in ``launch``.
        delay: sleep of workers before each push; None: none.
        max_staleness: as in ``launch``.
        kill_rate: kills per second of a worker's working time; 0: none. In processes only.
        seed: of the kills.
    """

    mode: str
    delay: Delay | None = None
    max_staleness: int | None = None
    kill_rate: float = 0.0
    seed: int = 0

    def sleeps(self, workers: int) -> list[float]:
        """Rough mean delay of each worker, in seconds per turn."""
        if self.delay is None:
            return [0.0] * workers
        turns = range(TURNS)
        return [
            sum(self.delay.seconds(rank, turn) for turn in turns) / TURNS for rank in range(workers)
        ]


class Measured(NamedTuple):
    """A job after its training.

    `killed` counts workers, and `again` the mini-batches that were trained to their end twice: they
    were pushed, but their worker was killed before it took the next.
    """

    job: Job
    trace: Trace
    killed: int
    again: int


def measure(
    jobs: list[Job],
    data: Mapping[str, Data],
    workers: int,
    conditions: Conditions,
    meter: Meter,
) -> list[Measured]:
    """Train all jobs in one launch; the outcome of each, in their order.

    Raises:
        WorkerError, RunTimeout: as ``launch``.
        StudyError: a worker was lost that this study had not killed.
    """
    expected = [job.recipe.batches(data[job.data]) for job in jobs]
    # Every death has at most one mini-batch trained again.
    room = sum(expected) + (RESTARTS if conditions.kill_rate else 0)
    log = Log(workers, len(jobs), room)
    kills = Kills(workers, len(jobs), conditions.kill_rate, conditions.seed)
    shared = Shared(log, kills, meter.counts, Board(workers), conditions.delay)
    with kills.expected():
        launch(
            train,
            args=(jobs, dict(data), shared),
            workers=workers,
            mode=conditions.mode,
            threads_per_worker=1,
            max_staleness=conditions.max_staleness,
            delay=conditions.delay,
            **kills.options,
        )
    traces = [log.trace(number) for number in range(len(jobs))]
    return [
        Measured(job, trace, killed, _trained(job, trace) - batches)
        for job, trace, killed, batches in zip(
            jobs, traces, kills.counts.sum(dim=1).tolist(), expected, strict=True
        )
    ]


def _trained(job: Job, trace: Trace) -> int:
    """Mini-batches, by the log or by the store: a worker may have been killed between the two."""
    if job.optimizer is None:
        return len(trace.points)
    ledger = job.optimizer.ledger()
    return max(len(trace.points), ledger.pushes + ledger.skipped_nonfinite)
