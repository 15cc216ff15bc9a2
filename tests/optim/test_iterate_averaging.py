"""torch's AveragedModel over a store: the average is shared as the parameters are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import asyncopt

from .jobs import average_in_turns, train

STEPS = 12


def ema(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """At the top level, as what goes to processes must be; torch's own is a closure."""
    return torch.lerp(averaged, current, 0.3)


def problem() -> tuple[nn.Module, Tensor]:
    """A model with buffers; they follow the model, too."""
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(16, 4, generator=generator, dtype=torch.float64)
    return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)).double(), data


def serial(
    model: nn.Module, data: Tensor, optimizer: torch.optim.Optimizer, every: int = 1, **how: Any
) -> dict[str, Tensor]:
    """The average as torch alone computes it."""
    averaged = AveragedModel(model, **how)
    averaged.update_parameters(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        (model(data) - 1).square().mean().backward()
        optimizer.step()
        if (step + 1) % every == 0:
            averaged.update_parameters(model)
    return averaged.state_dict()


def assert_same(averaged: AveragedModel, expected: dict[str, Tensor]) -> None:
    actual = averaged.state_dict()
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "sync", "how"),
    [
        ("thread", "hogwild", {}),
        ("thread", "leashed", {"use_buffers": True}),
        ("process", "hogwild", {"avg_fn": ema}),
        ("process", "leashed", {}),  # a replica
    ],
)
def test_one_worker_has_the_serial_average(mode: str, sync: str, how: dict[str, Any]) -> None:
    """Parameters, buffers and count; they are this process's own tensors."""
    model, data = problem()
    theirs = copy.deepcopy(model)
    expected = serial(theirs, data, torch.optim.Adam(theirs.parameters(), lr=0.05), **how)
    optimizer = asyncopt.Adam(model.parameters(), lr=0.05, sync=sync)
    averaged = AveragedModel(model, **how)
    averaged.update_parameters(model)
    args = (model, optimizer, data, STEPS, averaged)
    asyncopt.launch(train, args, workers=1, mode=mode, timeout=240)
    assert_same(averaged, expected)
    assert int(averaged.n_averaged) == STEPS + 1


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_one_of_several_workers_averages(mode: str) -> None:
    """The average covers the pushes of all workers that the averaging one has pulled."""
    model, data = problem()
    theirs = copy.deepcopy(model)
    expected = serial(theirs, data, torch.optim.Adam(theirs.parameters(), lr=0.05), every=2)
    optimizer = asyncopt.Adam(model.parameters(), lr=0.05)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    args = (model, optimizer, data, STEPS, averaged)
    asyncopt.launch(average_in_turns, args, workers=2, mode=mode, timeout=240)
    assert_same(averaged, expected)


def test_an_average_of_a_shared_model_is_private() -> None:
    """Also after the parameters have moved to a store."""
    model, data = problem()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1).share_memory(workers=1)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    before = copy.deepcopy(averaged.state_dict())
    (model(data) - 1).square().mean().backward()
    optimizer.step()
    for name, value in before.items():
        assert torch.equal(averaged.state_dict()[name], value)
    assert not torch.equal(averaged.module[1].weight, model[1].weight)  # type: ignore[index]
