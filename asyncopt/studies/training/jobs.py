"""Jobs: models that all workers train together, one after the other, each between two barriers."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LRScheduler,
)

import asyncopt
from asyncopt.optim import Optimizer
from asyncopt.run import Worker
from asyncopt.run.board import Board
from asyncopt.run.delays import Delay
from asyncopt.studies.progress import Ticker
from asyncopt.studies.training.kills import Kills, KillTimer
from asyncopt.studies.training.log import Log, LogWriter
from asyncopt.studies.training.networks import Data, Loss

PATIENCE = 86_400.0  # seconds a worker waits at a barrier for the slowest one; delays can be long
WARM_UP_BATCHES = 3
UNSHARED = "unshared"

CONSTANT = "constant"
SCHEDULES = {
    CONSTANT: "the same rate throughout",
    "cosine": "from the full rate down to zero along half a cosine",
    "restarts": "the same three times over, each time from the full rate",
}
CYCLES = 3


class Variant(NamedTuple):
    """One contender: a sync (None: every worker trains alone, nothing shared), audited or not."""

    label: str
    sync: str | None
    audit: bool


ALONE = Variant(UNSHARED, None, False)


class Recipe(NamedTuple):
    """Settings of the training of a job, the same in every worker.

    `loss` takes the output of the model and the targets; `schedule` is one of `SCHEDULES`;
    `dispatch` is that of ``Worker.batches``.
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
    """State that the workers of a launch share besides their jobs.

    `counts` are the `Meter`'s. Workers that share no parameters take their batches from `alone`, a
    board without waiting, and sleep `delay` by themselves.
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
    """A worker's part in the jobs of a launch."""

    def __init__(self, worker: Worker, shared: Shared) -> None:
        self._worker = worker
        self._delay = shared.delay
        self._timer = KillTimer(shared.kills, worker.rank)
        self._log = LogWriter(shared.log, worker.rank)
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
        with self._timer.running(number):
            self._log.start(number)
            for turn, (x, y) in enumerate(batches):
                if scheduler is not None:
                    worker.schedule(scheduler)
                optimizer.zero_grad()
                loss = recipe.loss(model(x), y)
                loss.backward()
                if delay is not None:
                    time.sleep(delay.seconds(worker.rank, turn))
                optimizer.step()
                self._log.write(number, loss.item())
                self._ticker.tick()
        self._worker.barrier(timeout=PATIENCE)


def warm_up(model: nn.Module, data: Data, recipe: Recipe) -> None:
    """Train a private copy for three mini-batches before anything is timed.

    Torch creates kernels and threads on first use, which takes more than a second.
    """
    model = copy.deepcopy(model)
    optimizer = private_optimizer(model, recipe)
    x, y = (part[: recipe.batch_size] for part in data)
    for _ in range(WARM_UP_BATCHES):
        optimizer.zero_grad()
        recipe.loss(model(x), y).backward()
        optimizer.step()


def private_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """An optimizer that shares nothing."""
    return make_optimizer(recipe.rule, model.parameters(), recipe.options, ALONE)


def make_optimizer(
    rule: str, parameters: Any, options: dict[str, Any], variant: Variant
) -> Optimizer:
    """The asyncopt optimizer `rule` over `parameters` under `variant`, not shared yet."""
    optimizer: type[Optimizer] = getattr(asyncopt, rule)
    if variant.sync is None:
        return optimizer(parameters, **options)
    return optimizer(parameters, **options, sync=variant.sync, audit=variant.audit)


def make_scheduler(name: str, optimizer: Any, steps: int) -> LRScheduler | None:
    """The scheduler of a job of so many steps; None where the rate is constant."""
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, steps))
    if name == "restarts":
        return CosineAnnealingWarmRestarts(optimizer, T_0=max(1, -(-steps // CYCLES)))
    return None
