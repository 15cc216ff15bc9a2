"""Functions of the tests' worker processes, which import this module."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from asyncopt import Worker

from .cases import params_of

WORKERS = 3

#: Pushes after which a worker stops if a parameter is bfloat16, which holds integers up to 256.
FEW = 256 // WORKERS

#: Different sets of rows that a worker pushes, one after the other and again.
ROW_SETS = 16


@dataclass
class Sight:
    """Actions and observations of one worker on one optimizer.

    Attributes:
        pushes: how often it pushed.
        torn: how often the parameters (and state) of a replica were not of one version.
        backwards: how often a replica went back, or missed its own push.
        stuck: pushes after which the store's version was no later than before.
    """

    pushes: int = 0
    torn: int = 0
    backwards: int = 0
    stuck: int = 0


def whole(tensors: list[Tensor]) -> float | None:
    """The value that all elements of all tensors have; None if they differ."""
    low = min(float(t.detach().amin()) for t in tensors)
    high = max(float(t.detach().amax()) for t in tensors)
    return high if low == high else None


def count_up(worker: Worker, optimizer: Any, seconds: float) -> Sight:
    """Adds 1 to every element, again and again, while the other workers do the same.

    Under a sync with replicas, each step must leave one whole version, which holds this worker's
    own push.
    """
    sight = Sight()
    params = params_of(optimizer)
    for p in params:
        p.grad = -torch.ones_like(p)
    most = FEW if any(p.dtype == torch.bfloat16 for p in params) else 1 << 20
    counts = type(optimizer).__name__ == "SGD"  # others' elements are no plain counts
    value, version = 0.0, optimizer.store.version
    worker.barrier()
    # Torn versions are rarer than lost updates.
    end = time.monotonic() + seconds * (3 if optimizer.is_replica else 1)
    while sight.pushes < 2 or (sight.pushes < most and time.monotonic() < end):
        optimizer.step()
        sight.pushes += 1
        before, version = version, optimizer.store.version
        sight.stuck += version <= before
        if not optimizer.is_replica:
            continue
        if counts:
            now = whole(params)
            if now is None:
                sight.torn += 1
            else:
                sight.backwards += now < value + 1
                value = now
        elif sight.pushes % 2 == 0:
            optimizer.pull()
            slots = [
                v for p in params for k, v in optimizer.state[p].items() if k in ("step", "sum")
            ]
            sight.torn += whole(slots) is None
    worker.barrier()
    return sight


def rows_of(rank: int, push: int, count: int) -> Tensor:
    """Which of `count` rows a worker updates in a push: three of four, so that most are others'."""
    generator = torch.Generator().manual_seed(1000 * rank + push % ROW_SETS)
    return torch.randperm(count, generator=generator)[: 3 * count // 4]


def count_rows(worker: Worker, optimizer: Any, seconds: float) -> Sight:
    """Adds 1 to most rows of the only parameter in every push."""
    sight = Sight()
    (table,) = params_of(optimizer)
    sets = [rows_of(worker.rank, push, len(table)) for push in range(ROW_SETS)]
    values = -torch.ones(len(sets[0]), *table.shape[1:], dtype=table.dtype)
    worker.barrier()
    end = time.monotonic() + seconds
    while sight.pushes < 2 or time.monotonic() < end:
        optimizer.step_rows(table, sets[sight.pushes % ROW_SETS], values)
        sight.pushes += 1
    worker.barrier()
    return sight


def count_everything(
    worker: Worker, dense: dict[str, Any], rows: dict[str, Any], seconds: float
) -> dict[str, Sight]:
    """Both of the above for many optimizers in one run: starting processes costs seconds."""
    sights = {name: count_up(worker, optimizer, seconds) for name, optimizer in dense.items()}
    sights |= {name: count_rows(worker, optimizer, seconds) for name, optimizer in rows.items()}
    return sights


def train_without_launch(model: nn.Linear, optimizer: Any, others: list[Any]) -> None:
    """The target of a plain Process: the model is tied to its optimizer, others come alone."""
    assert [id(p) for p in model.parameters()] == [id(p) for p in params_of(optimizer)]
    for each in (optimizer, *others):
        assert each.store is not None
        for p in params_of(each):
            p.grad = -torch.ones_like(p)
        each.step()
        each.step()
    assert torch.equal(model.weight, optimizer.store.view(0, torch.float32, (2, 3), (3, 1)))
