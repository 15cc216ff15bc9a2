"""Models, data and training loops of the tests of device workers; spawned processes import them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asyncopt.run import Worker

BATCH = 8


def data(examples: int = 40, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(examples, 1, 12, 12, generator=generator, dtype=dtype)
    return x, torch.randint(0, 5, (examples,), generator=generator)


def mlp(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Flatten(), nn.Linear(144, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(20, 5)).to(dtype)


def lenet() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 20),
        nn.ReLU(),
        nn.Linear(20, 5),
    )


class Odd(nn.Module):
    """Parameters that are read in all ways: by a parent, by nobody's forward pass, seldom."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.scale = nn.Parameter(torch.ones(12))
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)  # never calls out_proj
        self.mixed = nn.Linear(12, 12)
        self.seldom = nn.Linear(12, 12)
        self.out = nn.Linear(12, 5)
        self.frozen = nn.Linear(12, 12).requires_grad_(False)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = x[:, 0] * self.scale
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + F.linear(x, self.mixed.weight, self.mixed.bias)  # not by its own forward pass
        if self.calls % 3 == 0:
            x = x + self.seldom(x)
        out: Tensor = self.out(self.frozen(x).mean(dim=1))
        return out


def fit(
    worker: Worker,
    model: nn.Module,
    optimizer: Any,
    x: Tensor,
    y: Tensor,
    epochs: int = 2,
    change: Callable[[nn.Module, Any], object] = lambda model, optimizer: None,
) -> str:
    """Cross entropy; ``change`` is called between backward and step."""
    for xb, yb in worker.batches((x, y), batch_size=BATCH, epochs=epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(xb), yb).backward()
        change(model, optimizer)
        optimizer.step()
    return str(worker.device)


def alone() -> Worker:
    """For the same loop without a run."""
    return Worker(0, 1, lambda timeout: None)
