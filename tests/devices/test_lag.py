"""``lag=1`` against delayed gradient descent written out by hand, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncopt

from . import models
from .conftest import Train

LR = 0.05
STEPS = 10


def gradients(model: nn.Module, values: list[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Gradients of the loss at other values of the parameters."""
    names = [name for name, _ in model.named_parameters()]
    leaves = [value.clone().requires_grad_() for value in values]
    out = torch.func.functional_call(model, dict(zip(names, leaves, strict=True)), (x,))
    return list(torch.autograd.grad(nn.functional.cross_entropy(out, y), leaves))


def delayed(
    model: nn.Module, inverse: bool = False, compensation: float = 0.0, lag: int = 1
) -> list[Tensor]:
    """SGD whose every gradient is taken at the parameters of a step before."""
    x, y = models.data(dtype=torch.float64)
    now = [param.detach().clone() for param in model.parameters()]
    pulled = [now]
    for step in range(STEPS):
        rows = torch.arange(step * models.BATCH, (step + 1) * models.BATCH) % len(x)
        base = pulled[max(0, step - lag)]
        late = min(step, lag)
        rate = LR / (1 + late) if inverse else LR
        now = [
            w - rate * (g + compensation * g * g * (w - b))
            for w, g, b in zip(now, gradients(model, base, x[rows], y[rows]), base, strict=True)
        ]
        pulled.append(now)
    return now


def in_order(worker: Any, model: nn.Module, optimizer: Any, x: Tensor, y: Tensor) -> None:
    for xb, yb in worker.batches((x, y), batch_size=models.BATCH, epochs=2, shuffle=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(xb), yb).backward()
        optimizer.step()


def check(
    device: str, on: Train, sync: str, expected: list[Tensor], lag: int = 1, **how: Any
) -> Any:
    model = models.mlp(torch.float64)
    optimizer = asyncopt.SGD(model.parameters(), lr=LR, sync=sync, **how)
    run = on(in_order, model, optimizer, *models.data(dtype=torch.float64), lag=lag)
    for param, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(param.detach(), value, rtol=1e-10, atol=1e-12)
    return run


@pytest.mark.parametrize("sync", asyncopt.syncs())
def test_gradients_are_one_push_late(device: str, on: Train, sync: str) -> None:
    expected = delayed(models.mlp(torch.float64))
    run = check(device, on, sync, expected)
    # The first is taken at the newest parameters there are.
    assert run.ledger.pushes == STEPS
    assert run.ledger.staleness.total == STEPS - 1
    assert run.ledger.staleness.percentile(100) == 1


def test_without_a_lag_none_is_late(device: str, on: Train) -> None:
    check(device, on, "hogwild", delayed(models.mlp(torch.float64), lag=0), lag=0)


@pytest.mark.parametrize("sync", ["hogwild", "seqlock"])
def test_step_sizes_by_staleness(device: str, on: Train, sync: str) -> None:
    expected = delayed(models.mlp(torch.float64), inverse=True)
    check(device, on, sync, expected, staleness_lr="inverse")


@pytest.mark.parametrize("sync", ["hogwild", "mutex", "seqlock"])
def test_compensation(device: str, on: Train, sync: str) -> None:
    expected = delayed(models.mlp(torch.float64), compensation=30.0)
    check(device, on, sync, expected, delay_compensation=30.0)
