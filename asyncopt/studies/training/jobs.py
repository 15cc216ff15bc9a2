"""Jobs: models that all workers train together, one after the other, each between two barriers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from asyncopt.optim import Optimizer
from asyncopt.run import Worker
from asyncopt.run.board import Board
from asyncopt.run.delays import Delay
from asyncopt.studies.dense.plan import UNSHARED, Variant, make_optimizer
from asyncopt.studies.training.kills import Fuse, Kills
from asyncopt.studies.training.log import Log, Pen
from asyncopt.studies.training.meter import Ticker
from asyncopt.studies.training.schedules import CONSTANT, make_scheduler

PATIENCE = 86_400.0  # seconds a worker waits at a barrier for the slowest one; delays can be long
WARM_UP_BATCHES = 3

Data = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


class Recipe(NamedTuple):
    """How every worker trains a job.

    `loss` takes what the model puts out and the targets; `schedule` is one of `SCHEDULES` and
    `dispatch` as in ``Worker.batches``.
    """

    batch_size: int
    epochs: int
    rule: str
    options: dict[str, Any]
    loss: Loss
    schedule: str = CONSTANT
    dispatch: str = "static"

    def batches(self, data: Data) -> int:
        """Mini-batches of the whole job, over all workers."""
        return math.ceil(len(data[0]) / self.batch_size) * self.epochs


class Job(NamedTuple):
    """One measured run with its own model; no `optimizer`: each worker trains a private copy.

    `data` is the key of its examples, and `seed` decides their order.
    """

    data: str
    seed: int
    model: nn.Module
    optimizer: Optimizer | None
    recipe: Recipe


@dataclass(frozen=True)
class Shared:
    """What the workers of a launch have in common besides their jobs.

    `counts` are the `Meter`'s; workers that share no parameters take their batches from `alone`, a
    board on which nobody waits for others, and sleep `delay` by themselves.
    """

    log: Log
    kills: Kills
    counts: Tensor
    alone: Board
    delay: Delay | None


def train(worker: Worker, jobs: list[Job], data: Mapping[str, Data], shared: Shared) -> None:
    """Runs in every worker: all jobs in turn."""
    trainer = Trainer(worker, shared)
    for name in data:
        first = next(job for job in jobs if job.data == name)
        warm_up(first.model, data[name], first.recipe)
    for number, job in enumerate(jobs):
        trainer.train(number, job, data[job.data])


class Trainer:
    """One worker's part in the jobs of a launch."""

    def __init__(self, worker: Worker, shared: Shared) -> None:
        self._worker = worker
        self._delay = shared.delay
        self._fuse = Fuse(shared.kills, worker.rank)
        self._pen = Pen(shared.log, worker.rank)
        self._ticker = Ticker(shared.counts, worker.rank)
        self._alone = Worker(worker.rank, worker.world_size, worker.barrier, board=shared.alone)

    def train(self, number: int, job: Job, data: Data) -> None:
        """This worker's mini-batches of one job, begun by all workers at once."""
        model, optimizer, recipe = job.model, job.optimizer, job.recipe
        worker, delay = self._worker, None
        if optimizer is None:
            worker, delay = self._alone, self._delay
            model = copy.deepcopy(model)
            optimizer = private_optimizer(model, recipe)
        scheduler = make_scheduler(recipe.schedule, optimizer, recipe.batches(data))
        batches = worker.batches(
            data, recipe.batch_size, recipe.epochs, seed=job.seed, dispatch=recipe.dispatch
        )
        self._worker.barrier(timeout=PATIENCE)
        with self._fuse.burning(number):
            self._pen.start(number)
            for turn, (x, y) in enumerate(batches):
                if scheduler is not None:
                    worker.schedule(scheduler)
                optimizer.zero_grad()
                loss = recipe.loss(model(x), y)
                loss.backward()
                if delay is not None:
                    time.sleep(delay.seconds(worker.rank, turn))
                optimizer.step()
                self._pen.write(number, loss.item())
                self._ticker.tick()
        self._worker.barrier(timeout=PATIENCE)


def warm_up(model: nn.Module, data: Data, recipe: Recipe) -> None:
    """Train a private copy a little before anything is timed.

    Torch makes kernels and threads on first use, which takes more than a second.
    """
    model = copy.deepcopy(model)
    optimizer = private_optimizer(model, recipe)
    x, y = (part[: recipe.batch_size] for part in data)
    for _ in range(WARM_UP_BATCHES):
        optimizer.zero_grad()
        recipe.loss(model(x), y).backward()
        optimizer.step()


def private_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """One that shares nothing."""
    alone = Variant(UNSHARED, None, False)
    return make_optimizer(recipe.rule, model.parameters(), recipe.options, alone)
