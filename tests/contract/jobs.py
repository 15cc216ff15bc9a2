"""What the tests' worker processes do; they import this module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from asyncopt import Worker

from .cases import params_of

WORKERS = 3


@dataclass
class Sight:
    """What one worker saw of one optimizer.

    Attributes:
        torn: how often the parameters (and state) of a replica were not of one version.
        backwards: how often a replica went back, or missed its own push.
        versions: the store's version after each push.
    """

    torn: int = 0
    backwards: int = 0
    versions: list[int] = field(default_factory=list)


def whole(tensors: list[Tensor]) -> float | None:
    """The value that all elements of all tensors have; None if they differ."""
    low = min(float(t.detach().amin()) for t in tensors)
    high = max(float(t.detach().amax()) for t in tensors)
    return high if low == high else None


def count_up(worker: Worker, optimizers: dict[str, Any], steps: int) -> dict[str, Sight]:
    """Adds 1 to every element `steps` times, all workers at once on one optimizer after the other.

    Under a sync with replicas, each step must leave one whole version, which holds this worker's
    own push.
    """
    seen = {}
    for name, optimizer in optimizers.items():
        sight = seen[name] = Sight()
        params = params_of(optimizer)
        for p in params:
            p.grad = -torch.ones_like(p)
        before = 0.0
        worker.barrier()
        for step in range(steps):
            optimizer.step()
            sight.versions.append(optimizer.store.version)
            if not optimizer.is_replica:
                continue
            if step % 4 == 3:
                optimizer.pull()
                state = [optimizer.state.get(p, {}) for p in params]
                values = [v for each in state for v in each.values()]
                sight.torn += bool(values) and whole(values) is None
            if type(optimizer).__name__ != "SGD":
                continue  # its elements are no plain counts
            now = whole(params)
            sight.torn += now is None
            if now is not None:
                sight.backwards += now < before + 1
                before = now
        worker.barrier()
    return seen


def rows_of(rank: int, step: int, count: int) -> Tensor:
    """Which of `count` rows a worker touches in a step; some twice, most shared with others."""
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randint(0, count, (5,), generator=generator)


def count_rows(worker: Worker, optimizers: dict[str, Any], steps: int) -> None:
    """Adds 1 to some rows of the only parameter, `steps` times."""
    for optimizer in optimizers.values():
        (table,) = params_of(optimizer)
        worker.barrier()
        for step in range(steps):
            rows = rows_of(worker.rank, step, len(table))
            optimizer.step_rows(table, rows, -torch.ones(5, *table.shape[1:], dtype=table.dtype))


def count_everything(
    worker: Worker, dense: dict[str, Any], rows: dict[str, Any], steps: int
) -> dict[str, Sight]:
    """Both of the above in one run: starting processes costs seconds."""
    seen = count_up(worker, dense, steps)
    count_rows(worker, rows, steps)
    return seen


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
