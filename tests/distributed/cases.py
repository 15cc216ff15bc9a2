"""Models, data, optimizers and devices of the ranks; uses no code under test."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import asyncopt

RANKS = 2
STEPS = 13

NESTEROV = functools.partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)


class Place(NamedTuple):
    """The models' devices and the backend of the exchanges."""

    device: str
    backend: str

    def device_of(self, rank: int) -> torch.device:
        if self.device == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", rank % torch.cuda.device_count())


def gpus(count: int) -> Any:
    few = torch.cuda.device_count() < count
    return [pytest.mark.gpu, pytest.mark.skipif(few, reason=f"needs {count} CUDA devices")]


PLACES = [
    pytest.param(Place("cpu", "gloo"), id="cpu, gloo"),
    pytest.param(Place("cuda", "gloo"), id="one GPU, gloo", marks=gpus(1)),
    pytest.param(Place("cuda", "nccl"), id="GPUs, nccl", marks=gpus(RANKS)),
]


class Case(NamedTuple):
    """A method and its arguments."""

    method: str
    every: int
    overlap: int | None = None
    outer: Any = None
    alpha: float | None = None

    @property
    def delay(self) -> int:
        return self.every if self.overlap is None else self.overlap


CASES = {
    "local steps": Case("LocalSteps", 4, 0),
    "local steps, overlapped": Case("LocalSteps", 4),
    "local steps, overlapped in part": Case("LocalSteps", 4, 2),
    "local steps, a step late": Case("LocalSteps", 1, 1),
    "outer optimizer": Case("LocalSteps", 3, 0, outer=NESTEROV),
    "outer optimizer, overlapped": Case("LocalSteps", 3, outer=NESTEROV),
    "elastic": Case("ElasticAveraging", 2, 0),
    "elastic, overlapped": Case("ElasticAveraging", 3, 2, alpha=0.3),
}

Local = Callable[[Any], torch.optim.Optimizer]

LOCAL: dict[str, Local] = {
    "torch SGD": functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9),
    "torch Adam": functools.partial(torch.optim.Adam, lr=0.05),
}

#: The engine's own, which takes no GPU tensors.
OURS: dict[str, Local] = {"ours": functools.partial(asyncopt.SGD, lr=0.05, momentum=0.9)}


def model(rank: int) -> nn.Module:
    """A model that differs by rank."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(rank)
        return nn.Linear(3, 2, dtype=torch.float64)


def data(rank: int) -> tuple[Tensor, Tensor]:
    """Data of a rank; the minimum differs by rank."""
    generator = torch.Generator().manual_seed(100 + rank)
    x = torch.randn(16, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(16, 2, generator=generator, dtype=torch.float64)


def backward(network: nn.Module, x: Tensor, y: Tensor) -> None:
    network.zero_grad()
    (network(x) - y).square().mean().backward()


def flat(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in network.parameters()])
