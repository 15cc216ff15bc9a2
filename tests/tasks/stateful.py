"""Arguments of cross_validate with state, which must not leak from one fold to another."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from . import jobs

CALLS = 0  # of `counted_by_module`


def linear_with_dynamo() -> nn.Module:
    """A model, in a process that has what torch's optimizers import."""
    assert "torch._dynamo" in sys.modules
    return nn.Linear(6, 3)


class ScaledByLast:
    """A loss that is divided by its last value."""

    last = torch.tensor(1.0)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(outputs, targets)
        scaled = loss / self.last
        self.last = loss.detach()
        return scaled


class Running(nn.Module):
    """A loss with a buffer that is written in place."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = cross_entropy(outputs, targets)
        self.mean.lerp_(loss.detach(), 0.1)
        return loss / self.mean.clone()


def counted_by_module(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that counts its calls in a global variable."""
    global CALLS
    CALLS += 1
    return cross_entropy(outputs, targets) / CALLS


class Accumulated:
    """A metric over all that it has seen."""

    def __init__(self) -> None:
        self.right = self.seen = 0

    def __call__(self, outputs: Tensor, targets: Tensor) -> float:
        self.right += int((outputs.argmax(dim=1) == targets).sum())
        self.seen += len(targets)
        return self.right / self.seen


class Slower:
    """Makes optimizers, each with a smaller learning rate than the last."""

    made = 0

    def __call__(self, parameters: Any) -> torch.optim.Optimizer:
        self.made += 1
        return torch.optim.SGD(parameters, lr=0.1 / self.made)


class Steeper:
    """Makes schedules, each steeper than the last."""

    made = 0

    def __call__(self, optimizer: Any) -> torch.optim.lr_scheduler.LRScheduler:
        self.made += 1
        return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9**self.made)


class FineTuned:
    """Makes models whose first weight is a given tensor, not a copy of it."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self) -> nn.Module:
        model = jobs.make_model()
        assert isinstance(model, nn.Sequential)
        assert isinstance(model[0], nn.Linear)
        model[0].weight = nn.Parameter(self.weight)
        return model


class Worn(Dataset[tuple[Tensor, Tensor]]):
    """Examples that each look changes in place."""

    def __init__(self, x: Tensor, targets: Tensor) -> None:
        self.x, self.targets = x, targets

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        x = self.x[number]
        x *= 0.9
        return x, self.targets[number]


class Augmented(Worn):
    """Examples with noise from a generator of its own."""

    def __init__(self, x: Tensor, targets: Tensor) -> None:
        super().__init__(x, targets)
        self.dice = torch.Generator().manual_seed(1)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.x[number] + torch.randn(6, generator=self.dice), self.targets[number]


class WornArrays(Worn):
    """Examples that each look changes in an array that is sent through shared memory."""

    def __init__(self, x: Tensor, targets: Tensor) -> None:
        super().__init__(x, targets)
        self.array = np.zeros((len(x), 6000), dtype=np.float32)
        self.array[:, :6] = x.numpy()

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        x = self.array[number, :6]
        x *= 0.9
        return torch.from_numpy(x.copy()), self.targets[number]
