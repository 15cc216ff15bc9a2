"""Writes to the parameters of a worker with a device, while values come and go."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncopt

from .conftest import Train


def model_of(value: float = 0.0) -> nn.Linear:
    model = nn.Linear(4, 1, bias=False)
    nn.init.constant_(model.weight, value)
    return model


def push(model: nn.Linear, optimizer: Any, by: float) -> None:
    """Adds to each element, whose learning rate is 1."""
    optimizer.zero_grad()
    (model(torch.ones(1, 4, device=model.weight.device)) * -by).sum().backward()
    optimizer.step()


def write_too_early(worker: Any, model: nn.Linear, optimizer: Any) -> None:
    push(model, optimizer, 1.0)
    with torch.no_grad():
        model.weight.clamp_(max=0.5)
    push(model, optimizer, 1.0)


def test_a_write_to_what_is_on_its_way_is_refused(on: Train) -> None:
    """The write may come before or after the values of the last step, and be lost or stale."""
    model = model_of()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    with pytest.raises(asyncopt.WorkerError, match=r"params\[0\]: .* call the optimizer's flush"):
        on(write_too_early, model, optimizer)


def write(model: nn.Linear, number: int) -> None:
    with torch.no_grad():
        model.weight[0, number] = 10.0


def all_ways(worker: Any, model: nn.Linear, optimizer: Any) -> list[list[float]]:
    """The parameters after each way in which a write can reach the store."""
    seen: list[list[float]] = []

    def look() -> None:
        optimizer.flush()
        seen.append(model.weight.detach().cpu().flatten().tolist())

    write(model, 0)
    push(model, optimizer, 1.0)  # with a push
    look()
    write(model, 1)
    optimizer.pull()  # which keeps it
    look()  # as a version of its own
    write(model, 2)
    push(model, optimizer, float("nan"))  # which is skipped
    look()
    push(model, optimizer, 1.0)
    look()
    write(model, 3)  # at the end
    return seen


@pytest.mark.filterwarnings("ignore:step. a gradient is NaN:RuntimeWarning")
@pytest.mark.parametrize("sync", ["atomic", "mutex", "leashed"])
@pytest.mark.parametrize("options", [{}, {"delay_compensation": 0.5}])
def test_writes_reach_the_store(on: Train, sync: str, options: dict[str, Any]) -> None:
    if options and sync == "leashed":
        pytest.skip("leashed has no place for the newest parameters")
    model = model_of()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync=sync, **options)
    run = on(all_ways, model, optimizer)
    assert run.results[0] == [
        [11.0, 1.0, 1.0, 1.0],
        [11.0, 10.0, 1.0, 1.0],
        [11.0, 10.0, 10.0, 1.0],
        [12.0, 11.0, 11.0, 2.0],
    ]
    assert model.weight.flatten().tolist() == [12.0, 11.0, 11.0, 10.0]
    assert run.ledger.pushes == 2


def clamp_behind(worker: Any, model: nn.Linear, optimizer: Any) -> list[float]:
    seen = []
    for _ in range(6):
        with torch.no_grad():
            model.weight.clamp_(max=2.0)
        push(model, optimizer, 1.0)
        seen.append(model.weight.max().item())
    return seen


def test_one_push_behind(on: Train) -> None:
    """A clamped value lands with the push after the next, as all do with lag=1."""
    model = model_of()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    run = on(clamp_behind, model, optimizer, lag=1)
    assert max(run.results[0]) <= 4.0
    weights: Tensor = model.weight
    assert weights.max() <= 4.0
