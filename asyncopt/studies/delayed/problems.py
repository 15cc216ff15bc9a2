"""Training problems of the staleness study: the perceptron on digits, and a known optimum."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asyncopt.report.text import three_digits
from asyncopt.studies.rows import Measure
from asyncopt.studies.training.networks import Data, Digits, Split, TrainingProblem, evaluate

GAP = Measure("gap", "gap", "loss on test examples minus loss on training examples", three_digits)
NORM = Measure("norm", "norm", "Euclidean norm of all weights", three_digits)

FEATURES = 32
TRAIN = 1024  # examples
TEST = 4096
CONDITION = 10.0  # of the features' covariance: largest by smallest variance
NOISE = 0.5  # standard deviation of the targets


class DelayedProblem(TrainingProblem):
    """A training problem with the scores that staleness is judged by.

    Attributes:
        lr: learning rate, near the largest with which plain SGD converges well.
        main: the score that staleness is judged by, the less the better.
        worse: the meaning of a larger score, as in "1.3x ...".
        measures: all scores of the table.
    """

    lr: float
    main: Measure
    worse: str
    measures: tuple[Measure, ...]

    def score(self, model: nn.Module, seed: int) -> dict[str, float]:
        """Scores of a model trained on ``load(seed)``, by names of `Measure`."""
        raise NotImplementedError


class DelayedDigits(Digits, DelayedProblem):
    """A network: effects of staleness without a known optimum, and on generalization."""

    epochs, quick_epochs = 20, 6
    lr = 0.5
    main = Measure("test_loss", "test loss", "mean cross entropy on test images", three_digits)
    worse = "the test loss of"
    measures = (
        Measure(
            "train_accuracy", "train", "share of training images classified right", "{:.1%}".format
        ),
        Measure("accuracy", "accuracy", "share of test images classified right", "{:.1%}".format),
        main,
        GAP,
        NORM,
    )

    def score(self, model: nn.Module, seed: int) -> dict[str, float]:
        """Loss and accuracy of both sets of images."""
        split = self.load(seed)
        train_loss, train_accuracy = evaluate(model, split.train)
        test_loss, accuracy = evaluate(model, split.test)
        return {
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "accuracy": accuracy,
            "gap": test_loss - train_loss,
            "norm": norm_of(model),
        }


class Lesson(NamedTuple):
    """Examples of a fixed teacher, and the weights that fit them.

    split: x float32 (n, 32), normal with variances from 1 down to 1/10; y float32 (n,).
    teacher: float64 (32,), the weights behind the noise.
    optimum: float64 (32,), the least-squares solution of the training examples.
    """

    split: Split
    teacher: Tensor
    optimum: Tensor


@lru_cache(maxsize=4)
def lesson(seed: int) -> Lesson:
    """Data, teacher and optimum (float64), determined by the seed."""
    dice = torch.Generator().manual_seed(seed)
    scales = CONDITION ** -torch.linspace(0, 0.5, FEATURES, dtype=torch.float64)
    teacher = torch.randn(FEATURES, generator=dice, dtype=torch.float64)

    def examples(count: int) -> Data:
        x = torch.randn(count, FEATURES, generator=dice, dtype=torch.float64) * scales
        noise = torch.randn(count, generator=dice, dtype=torch.float64) * NOISE
        return x.float(), (x @ teacher + noise).float()

    split = Split(examples(TRAIN), examples(TEST))
    x, y = (part.double() for part in split.train)
    return Lesson(split, teacher, torch.linalg.lstsq(x, y).solution)


def half_square(output: Tensor, target: Tensor) -> Tensor:
    """Half the mean squared error: its curvature is the features' covariance."""
    return nn.functional.mse_loss(output, target) / 2


class Teacher(DelayedProblem):
    """Linear regression on a fixed teacher; the optimum is known in float64."""

    name = "teacher"
    title = "Linear regression from a teacher"
    about = (
        f"Least squares over {FEATURES} features and {TRAIN:,} noisy examples of a fixed teacher, "
        f"batch 16; the features' covariance has the condition number {CONDITION:g}. The optimum "
        "is the least-squares solution in float64, and distance is that of the weights to it, "
        "divided by the initial distance."
    )
    examples = TRAIN
    batch_size = 16
    epochs = 20
    quick_epochs = 6
    lr = 0.4
    step = 1e-4
    main = Measure(
        "distance", "distance", "of the weights to the optimum; 1 at the start", three_digits
    )
    worse = "as far from the optimum as"
    measures = (
        main,
        Measure(
            "excess_risk",
            "excess risk",
            "half the mean squared error on clean test examples",
            three_digits,
        ),
        GAP,
        NORM,
    )

    def load(self, seed: int) -> Split:
        """See `lesson`."""
        return lesson(seed).split

    def build(self) -> nn.Module:
        """Weights of zero."""
        model = nn.Linear(FEATURES, 1, bias=False)
        nn.init.zeros_(model.weight)
        return model

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """See `half_square`."""
        return half_square(output.squeeze(-1), target)

    def score(self, model: nn.Module, seed: int) -> dict[str, float]:
        """Scores of the model, computed in float64."""
        split, teacher, optimum = lesson(seed)
        (weights,) = (p.detach().double().flatten() for p in model.parameters())

        def loss(x: Tensor, y: Tensor) -> float:
            return float(half_square(x.double() @ weights, y.double()))

        clean = split.test[0].double() @ teacher
        return {
            "distance": float((weights - optimum).norm() / optimum.norm()),
            "excess_risk": loss(split.test[0], clean),
            "train_loss": loss(*split.train),
            "test_loss": loss(*split.test),
            "gap": loss(*split.test) - loss(*split.train),
            "norm": norm_of(model),
        }


def norm_of(model: nn.Module) -> float:
    """Euclidean norm of all parameters."""
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in model.parameters()))
