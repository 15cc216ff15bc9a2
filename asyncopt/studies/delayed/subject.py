"""What every problem of the study has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from asyncopt.studies.delayed.plan import SCALED, Contender, Plan
from asyncopt.studies.dense.training import Split
from asyncopt.studies.measures import Measure, three_digits
from asyncopt.studies.training.jobs import Recipe

GAP = Measure("gap", "gap", "loss on test examples minus loss on training examples", three_digits)
NORM = Measure("norm", "norm", "Euclidean norm of all weights", three_digits)


class Subject(ABC):
    """A model, its data, and how what it has learned is judged.

    Attributes:
        name: what ``--problem`` calls it.
        title: heading of its table.
        about: a sentence or two for the report.
        needs: modules outside of asyncopt's own requirements.
        examples: number of training examples.
        batch_size: examples per push.
        epochs: passes over the data; `quick_epochs` where time is short.
        lr: learning rate, near the largest that plain SGD takes well.
        step: rough seconds of a training step, for the progress bar.
        main: what staleness is judged by, the less the better.
        worse: what more of it means, as in "1.3x ...".
        measures: all that the table shows.
    """

    name: str
    title: str
    about: str
    needs: tuple[str, ...] = ()
    examples: int
    batch_size: int
    epochs: int
    quick_epochs: int
    lr: float
    step: float
    main: Measure
    worse: str
    measures: tuple[Measure, ...]

    @abstractmethod
    def data(self, seed: int) -> Split:
        """Examples to train and to test with, the same for the same seed."""

    @abstractmethod
    def build(self) -> nn.Module:
        """An untrained model, from torch's random state."""

    @staticmethod
    @abstractmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """What is minimized, from what the model puts out."""

    @abstractmethod
    def score(self, model: nn.Module, seed: int) -> dict[str, float]:
        """What the model has learned of ``data(seed)``; by names of `Measure`."""

    def recipe(self, plan: Plan, contender: Contender) -> Recipe:
        """How `plan` trains a contender's model."""
        options: dict[str, Any] = {"lr": self.lr if plan.lr is None else plan.lr}
        if contender.schedule == SCALED:
            options["staleness_lr"] = "inverse"
        return Recipe(
            self.batch_size,
            self._epochs(plan),
            "SGD",
            options,
            self.loss,
            contender.serial.schedule,
            "dynamic",
        )

    def pushes(self, plan: Plan) -> int:
        """Of one training."""
        return math.ceil(self.examples / self.batch_size) * self._epochs(plan)

    def _epochs(self, plan: Plan) -> int:
        return plan.epochs or (self.quick_epochs if plan.quick else self.epochs)


def norm_of(model: nn.Module) -> float:
    """Euclidean norm of all parameters."""
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in model.parameters()))


def fresh(subject: Subject, seed: int) -> nn.Module:
    """An untrained model, the same for the same seed; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return subject.build()
