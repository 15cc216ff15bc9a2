"""The training loop of the study's workers, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)

import asyncopt
from asyncopt.optim import Optimizer
from asyncopt.run import Worker
from examples.hyperspheres.data import Points
from examples.hyperspheres.loss import contrastive_loss
from examples.hyperspheres.models import parameter_groups

LOGGED = 10  # batches between two logged losses: reading one waits for the device


class Recipe(NamedTuple):
    """How a model is trained; `seed` is of the order of points."""

    batch_size: int
    epochs: int
    seed: int


def make_optimizers(model: nn.Module, sync: str) -> list[Optimizer]:
    """One for each group of parameters: AdamW for weights, SGD without decay for vectors."""
    groups = parameter_groups(model)
    return [
        asyncopt.AdamW(groups["weights"], lr=2e-3, weight_decay=0.05, sync=sync),
        asyncopt.SGD(groups["vectors"], lr=0.05, momentum=0.9, sync=sync),
    ]


def _warmup(optimizer: Any, steps: int) -> LRScheduler:
    first = max(1, steps // 10)
    parts = [
        LinearLR(optimizer, start_factor=0.1, total_iters=first),
        CosineAnnealingLR(optimizer, T_max=steps - first),
    ]
    return SequentialLR(optimizer, parts, milestones=[first])


SCHEDULES: dict[str, Callable[[Any, int], LRScheduler]] = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "warmup": _warmup,  # a tenth of the steps up, the rest along a cosine
}


def train(
    worker: Worker,
    model: nn.Module,
    optimizers: list[Optimizer],
    schedulers: list[LRScheduler],
    points: Points,
    recipe: Recipe,
) -> None:
    """Runs in every worker; batches come on its device."""
    batches = worker.batches(
        tuple(points),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=recipe.seed,
        drop_last=True,  # what is left may be too little for batch normalization
    )
    for number, (x, y) in enumerate(batches):
        for scheduler in schedulers:
            worker.schedule(scheduler)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = contrastive_loss(model(x), y)
        loss.backward()
        worker.push(*optimizers)
        if number % LOGGED == 0:
            worker.log(loss)
