"""Linear regression on what a fixed teacher says: its optimum is known to the last digit."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from asyncopt.studies.delayed.subject import GAP, NORM, Subject, norm_of
from asyncopt.studies.dense.training import Split
from asyncopt.studies.measures import Measure, three_digits
from asyncopt.studies.training.jobs import Data

FEATURES = 32
TRAIN = 1024  # examples
TEST = 4096
CONDITION = 10.0  # of the features' covariance: largest by smallest variance
NOISE = 0.5  # standard deviation of what the teacher says around what it means


class Lesson(NamedTuple):
    """Examples, and what can be learned from them.

    split: x float32 (n, 32), normal with variances from 1 down to 1/10; y float32 (n,).
    teacher: float64 (32,), the weights behind the noise.
    optimum: float64 (32,), the least-squares solution of the training examples.
    """

    split: Split
    teacher: Tensor
    optimum: Tensor


@lru_cache(maxsize=4)
def lesson(seed: int) -> Lesson:
    """The same for the same seed; the optimum is computed in float64."""
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


class Teacher(Subject):
    """32 weights from zero; their distance to the optimum says how far training came."""

    name = "teacher"
    title = "Linear regression from a teacher"
    about = (
        f"Least squares over {FEATURES} features and {TRAIN:,} noisy examples of a fixed teacher, "
        f"batch 16; the features' covariance has the condition number {CONDITION:g}. The optimum "
        "is the least-squares solution in float64, and distance is that of the weights to it, "
        "divided by the distance they began at."
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

    def data(self, seed: int) -> Split:
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
        """All in float64."""
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
