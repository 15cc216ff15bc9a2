"""Training of one fold in a worker, and its result."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from asyncopt.run.batches import Batches
from asyncopt.run.random_states import Stream
from asyncopt.run.sources import Source, Supply, check_supply
from asyncopt.tasks.scoring import Metric, score
from asyncopt.tasks.splits import Split, Splits

__all__ = ["TRAINING", "Epoch", "Fold", "Recipe", "Trained", "train_fold"]

TRAINING = 2  # version of the results: increase it when the same arguments give other results
HELD_OUT = 256  # held-out examples in a batch: activations stay in the cache


@dataclass(frozen=True)
class Recipe:
    """Settings of the training of each fold; arguments of `cross_validate`."""

    make_model: Callable[[], nn.Module]
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    scheduler: Callable[[Any], LRScheduler] | None
    schedule_by: str
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Metric]
    epochs: int
    batch_size: int
    drop_last: bool
    evaluate_every: int
    patience: int | None
    seed: int


class Epoch(NamedTuple):
    """A pass over a fold's training examples.

    Attributes:
        number: from 1.
        lr: learning rate of the first parameter group at the epoch's start.
        train_loss: mean loss of the epoch's training batches, each before its update.
        scores: loss and metrics on the held-out examples after the epoch; None: not evaluated.
    """

    number: int
    lr: float
    train_loss: float
    scores: dict[str, float] | None


class Trained(NamedTuple):
    """A trained fold, as its worker returns it.

    Attributes:
        epochs: all of them, in order.
        best: number of the epoch whose model this is; see `Fold`.
        begin: start of the training, in seconds on the machine's monotonic clock.
        end: end of the training, likewise.
        state: the model's state dict; None if not requested.
    """

    epochs: list[Epoch]
    best: int
    begin: float
    end: float
    state: dict[str, Tensor] | None


@dataclass(frozen=True)
class Fold:
    """A trained and scored fold.

    Attributes:
        number: from 0.
        scores: loss and metrics of the model of epoch ``best`` on all examples held out.
        epochs: all epochs trained, with loss, learning rate and scores over time.
        best: number of the epoch whose model was scored: the last one, or with ``patience`` the one
            with the lowest loss on the examples held out (the last one if no loss was finite).
        train_examples: number of examples trained on.
        test_examples: number of examples held out.
        begin: start of its training, in seconds since the call; NaN if an earlier call trained it.
        seconds: duration of training and scoring in the worker.
        worker: rank of the worker that trained it.
        attempts: number of starts; more than one if workers died.
    """

    number: int
    scores: dict[str, float]
    epochs: tuple[Epoch, ...]
    best: int
    train_examples: int
    test_examples: int
    begin: float
    seconds: float
    worker: int
    attempts: int


def train_fold(fold: int, recipe: Recipe, data: Any, splits: Splits, keep: bool) -> Trained:
    """Train a fresh model on a fold and score it on the examples held out.

    The generators of torch, numpy and Python are seeded with the fold's own stream of ``seed``, so
    the result does not depend on numbers that the process drew before.
    """
    begin = time.monotonic()
    stream = Stream(recipe.seed, (fold,))
    stream.enter()
    training = _Training(recipe, data, splits[fold], stream.number)
    epochs: list[Epoch] = []
    best, since, least, state = 0, 0, math.inf, None
    for number in range(1, recipe.epochs + 1):
        lr = float(training.optimizer.param_groups[0]["lr"])
        train_loss = training.epoch(number)
        due = number % recipe.evaluate_every == 0 or number == recipe.epochs
        scores = training.score() if due else None
        training.end_epoch(scores)
        epochs.append(Epoch(number, lr, train_loss, scores))
        if scores is None or recipe.patience is None:
            continue
        since = since or number
        if scores["loss"] < least:  # False for NaN
            best = since = number
            least = scores["loss"]
            if keep:
                state = copy.deepcopy(training.model.state_dict())
        elif number - since >= recipe.patience:
            break
    if best == 0:
        best, state = number, training.model.state_dict()
    return Trained(epochs, best, begin, time.monotonic(), state if keep else None)


@dataclass(frozen=True)
class _Part:
    """Some of a source's examples."""

    source: Source
    numbers: Tensor

    @property
    def examples(self) -> int:
        return len(self.numbers)

    def pick(self, which: Tensor | slice) -> Any:
        return self.source.pick(self.numbers[which])


class _Training:
    """A fold's model with its optimizer and schedule, and the fold's batches."""

    def __init__(self, recipe: Recipe, data: Any, split: Split, seed: int) -> None:
        source = check_supply(data, recipe.batch_size, None, None).source
        train, test = (_Part(source, numbers) for numbers in split)
        supply = Supply(train, recipe.batch_size, shuffle=True, drop_last=recipe.drop_last)
        self._train = Batches(supply, recipe.epochs, seed)
        self._test = Batches(Supply(test, HELD_OUT, shuffle=False, drop_last=False), 1, seed)
        self._held_out = test.examples
        self._recipe = recipe
        self.model = recipe.make_model()
        self.optimizer = recipe.optimizer(self.model.parameters())
        self._scheduler = None if recipe.scheduler is None else recipe.scheduler(self.optimizer)
        if isinstance(self._scheduler, ReduceLROnPlateau) and recipe.schedule_by == "batch":
            raise ValueError(
                "schedule_by: expected 'epoch' with ReduceLROnPlateau, which needs the loss of "
                "the examples held out, got 'batch'"
            )
        if isinstance(self._scheduler, ReduceLROnPlateau) and self._scheduler.mode != "min":
            raise ValueError(
                "scheduler: expected ReduceLROnPlateau with mode='min', as it is stepped by the "
                f"loss of the examples held out, got mode={self._scheduler.mode!r}"
            )

    def epoch(self, number: int) -> float:
        """Train on all examples once, in the order of epoch ``number``; the batches' mean loss."""
        losses = []
        self.model.train()
        size = self._train.total // self._recipe.epochs
        for batch in range((number - 1) * size, number * size):
            *inputs, targets = self._train.fetch(batch)
            self.optimizer.zero_grad()
            loss = self._recipe.loss(self.model(*inputs), targets)
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
            if self._scheduler is not None and self._recipe.schedule_by == "batch":
                self._scheduler.step()
        return float(torch.stack(losses).mean())

    def end_epoch(self, scores: dict[str, float] | None) -> None:
        """Step the schedule if it counts epochs, or if it needs a loss and the epoch was scored."""
        if isinstance(self._scheduler, ReduceLROnPlateau):
            if scores is not None:
                self._scheduler.step(scores["loss"])
        elif self._scheduler is not None and self._recipe.schedule_by == "epoch":
            self._scheduler.step()

    def score(self) -> dict[str, float]:
        """Loss and metrics of the examples held out."""
        batches = map(self._test.fetch, range(self._test.total))
        how = self._held_out, self._recipe.loss, self._recipe.metrics
        return score(self.model, batches, *how)
