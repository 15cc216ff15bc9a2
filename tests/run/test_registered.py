"""Buffers that a worker rebinds stay shared; replaced parameters are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import asyncopt
from asyncopt.run import launch

STEPS = 5
SYNCS = ("hogwild", "seqlock")


class Counting(nn.Module):
    """Counts its forward passes in buffers: one written, one bound anew, one not saved."""

    written: Tensor
    bound: Tensor
    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.register_buffer("written", torch.zeros(2))
        self.register_buffer("bound", torch.zeros(2))
        self.register_buffer("cache", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.written += 1
        self.bound = self.bound + 1
        self.cache = torch.cat([self.cache, x.new_ones(1)])
        out: Tensor = self.fc(x)
        return out


def step(model: nn.Module, optimizer: Any) -> None:
    optimizer.zero_grad()
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()


def count(worker: Any, model: Counting, optimizer: Any) -> Tensor:
    """Leaves the last forward pass without a push; each worker counts after the one before."""
    for rank in range(worker.world_size):
        if rank == worker.rank:
            for _ in range(STEPS):
                step(model, optimizer)
            model(torch.ones(1, 3))
        worker.barrier()
    return model.bound.clone()


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_bound_buffers(mode: str, sync: str) -> None:
    """All workers see one count, as they do of a buffer that is written."""
    model = Counting()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1, sync=sync)
    shared = model.bound
    run = launch(count, (model, optimizer), workers=2, mode=mode, threads_per_worker=1)
    assert model.bound is shared
    assert model.bound.tolist() == [2 * (STEPS + 1)] * 2 == model.written.tolist()
    assert [result.tolist() for result in run.results] == [model.bound.tolist()] * 2
    assert model.cache.tolist() == [0.0, 0.0]  # grew in each worker


def test_bound_buffers_on_a_device() -> None:
    """Buffers are each worker's own there, and those of worker 0 are kept."""
    model = Counting()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    launch(count, (model, optimizer), devices=["cpu", "cpu"], mode="thread")
    assert model.bound.tolist() == [STEPS + 1] * 2 == model.written.tolist()


def change_shape(model: Counting) -> None:
    model.bound = torch.zeros(3)


def drop(model: Counting) -> None:
    del model.bound


def replace_weight(model: Counting) -> None:
    model.fc.weight = nn.Parameter(torch.zeros(2, 3))


def load_by_assignment(model: Counting) -> None:
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)


def replace_layer(model: Counting) -> None:
    model.fc = nn.Linear(3, 2)


def change_in_the_middle(
    worker: Any, model: Counting, optimizer: Any, change: Callable[[Counting], None], after: int
) -> None:
    step(model, optimizer)
    change(model)
    for _ in range(after):
        step(model, optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1])  # at the next step, and at the end at the latest
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_shape, r"bound: expected a buffer .*, shape \(2,\), got .* shape \(3,\)"),
        (replace_weight, "fc.weight: expected the parameter that launch shared, got another one"),
        (load_by_assignment, "fc.(weight|bias): expected the parameter that launch shared"),
        (replace_layer, "fc.weight: expected the parameter that launch shared"),
    ],
)
@pytest.mark.parametrize("options", [{"workers": 1}, {"devices": ["cpu"]}])
def test_refused(
    options: dict[str, Any], change: Callable[[Counting], None], message: str, after: int
) -> None:
    model = Counting()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    with pytest.raises(asyncopt.WorkerError) as caught:
        launch(change_in_the_middle, (model, optimizer, change, after), mode="thread", **options)
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.match(message)


def test_a_dropped_buffer_is_refused() -> None:
    model = Counting()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    with pytest.raises(asyncopt.WorkerError, match=r"bound: expected a buffer .* got none"):
        launch(change_in_the_middle, (model, optimizer, drop, 0), workers=1, mode="thread")


def rename(model: Counting) -> None:
    """As pruning does: the same parameter by another name."""
    prune.identity(model.fc, "weight")


def test_a_parameter_by_another_name_is_trained_on() -> None:
    model = Counting()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    launch(change_in_the_middle, (model, optimizer, rename, 2), workers=1, mode="thread")
    assert optimizer.ledger().pushes == 3
