"""Functions of the tests' worker processes, which import this module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from asyncopt import Worker


def params_of(optimizer: Any) -> list[Tensor]:
    """All parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def gradient_of(at: Tensor, step: int) -> Tensor:
    """Gradient of (at - target)^2 / 2 for a target that moves."""
    return at - 3 - step % 4


def push_in_turns(worker: Worker, optimizer: Any, script: list[int]) -> None:
    """Worker script[k] makes push k, with the gradient at what it pulled last; all pull first."""
    (param,) = params_of(optimizer)
    optimizer.pull()
    pulled = param.detach().clone()
    for step, rank in enumerate(script):
        worker.barrier()
        if rank == worker.rank:
            param.grad = gradient_of(pulled, step)
            optimizer.step()
            pulled = param.detach().clone()
    worker.barrier()
    optimizer.pull()


def train(
    worker: Worker, model: nn.Module, optimizer: Any, data: Tensor, steps: int, averaged: Any = None
) -> list[Tensor]:
    """Full-batch least squares on the worker's rows of the data; its parameters at the end."""
    x = data[worker.rank :: worker.world_size]
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(model)
    return [p.detach().clone() for p in model.parameters()]


def average_in_turns(
    worker: Worker, model: nn.Module, optimizer: Any, data: Tensor, steps: int, averaged: Any
) -> None:
    """All workers step one after the other, on all of the data; the first one then averages."""
    for step in range(steps):
        worker.barrier()
        if step % worker.world_size == worker.rank:
            optimizer.zero_grad()
            (model(data) - 1).square().mean().backward()
            optimizer.step()
        worker.barrier()
        if worker.rank == 0 and (step + 1) % worker.world_size == 0:
            averaged.update_parameters(model)


def train_in_turns(
    worker: Worker, model: nn.Module, optimizer: Any, data: Tensor, script: list[int]
) -> list[Tensor]:
    """Local steps in a fixed order: worker script[k] takes step k, all others wait."""
    for step, rank in enumerate(script):
        worker.barrier()
        if rank == worker.rank:
            optimizer.zero_grad()
            (model(data[step % len(data)]) - 1).square().sum().backward()
            optimizer.step()
    for rank in range(worker.world_size):
        worker.barrier()
        if rank == worker.rank:
            optimizer.finish()
    worker.barrier()
    return [p.detach().clone() for p in model.parameters()]


def train_in_rounds(
    worker: Worker, model: nn.Module, optimizer: Any, data: Tensor, rounds: int
) -> list[Tensor]:
    """Synchronous local SGD: all workers meet after each exchange; returns the last local steps."""
    x, local = data[worker.rank :: worker.world_size], []
    for step in range(rounds * optimizer.every):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        if (step + 1) % optimizer.every == 0:
            worker.barrier()
            optimizer.pull()
            worker.barrier()
        local = [p.detach().clone() for p in model.parameters()]
    return local


def wander(worker: Worker, model: nn.Module, optimizer: Any, steps: int) -> list[Tensor]:
    """Without gradients, only exchanges move the parameters, which start apart."""
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
        p.data.fill_(worker.rank + 1)
    worker.barrier()
    for _ in range(steps):
        optimizer.step()
    optimizer._steps = 0  # nothing has followed the last exchange, as there are no gradients
    worker.barrier()
    return [p.detach().clone() for p in model.parameters()]


def look(
    worker: Worker, model: nn.Module, optimizer: Any
) -> tuple[list[Tensor], list[Tensor], bool, int]:
    """Parameters at start and end, whether pull keeps a trained replica, local state."""
    start = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(worker.rank + 1):
        optimizer.step()
    mine = [p.detach().clone() for p in model.parameters()]
    worker.barrier()
    optimizer.pull()
    kept = all(torch.equal(a, b) for a, b in zip(mine, model.parameters(), strict=True))
    (count,) = {int(entries["step"]) for entries in optimizer.state.values()}
    return start, mine, kept, count


def descend(worker: Worker, model: nn.Module, optimizer: Any, steps: int) -> Any:
    """Steps of a gradient of 1, in turns; all pull before the first pushes. The model at last."""
    (weight,) = model.parameters()
    worker.barrier()
    for _ in range(steps):
        worker.pull()
        weight.grad = torch.ones_like(weight)
        worker.push(optimizer)
    worker.barrier()
    return weight.detach().flatten().tolist()
