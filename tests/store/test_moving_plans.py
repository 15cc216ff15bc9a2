"""Optimizers step on tensors wherever a launch has moved these."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter

import asyncopt


def hold(worker: asyncopt.Worker, *tensors: Any) -> None:
    """Takes arguments, and does nothing with them."""


@pytest.mark.parametrize("rule", asyncopt.rules())
def test_an_optimizer_whose_state_was_sent_steps_on(rule: str) -> None:
    """Its state dict holds the very tensors of the state, which move to shared memory."""
    params = [Parameter(torch.linspace(-1, 1, 5000)) for _ in range(2)]
    ours: Any = getattr(asyncopt, rule)(params[:1], lr=0.1)
    theirs: Any = getattr(asyncopt, rule)(params[1:], lr=0.1)
    for step in range(4):
        for param, optimizer in zip(params, (ours, theirs), strict=True):
            param.grad = torch.cos(torch.arange(5000.0) + step)
            optimizer.step()
        if step == 1:
            asyncopt.launch(hold, (ours.state_dict(), params[0]), 1, timeout=120)
    assert torch.equal(params[0], params[1])


def test_the_local_optimizer_of_an_averaging_one_steps_on() -> None:
    model = nn.Linear(50, 50)
    twin = copy.deepcopy(model)
    local = asyncopt.Adam(model.parameters(), lr=0.1)
    optimizer = asyncopt.LocalSteps(local, every=10)
    expected = asyncopt.Adam(twin.parameters(), lr=0.1)
    data = torch.ones(3, 50)
    for step in range(3):
        for net, opt in ((model, optimizer), (twin, expected)):
            opt.zero_grad()
            net(data).square().sum().backward()
            opt.step()
        if step == 1:
            asyncopt.launch(hold, (model, optimizer), 1, timeout=120)
            optimizer.unshare()
    assert torch.equal(model.weight, twin.weight)


def test_threads_that_send_the_same_tensors() -> None:
    """They move once, and every worker writes where this process reads."""
    tensors = [torch.zeros(64) for _ in range(300)]
    problems: list[BaseException] = []

    def send() -> None:
        try:
            asyncopt.launch(add_one, (tensors,), 1, timeout=120)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    before = [float(tensor.sum()) for tensor in tensors]
    assert min(before) > 0
    asyncopt.launch(add_one, (tensors,), 1, timeout=120)
    assert [float(tensor.sum()) for tensor in tensors] == [value + 64 for value in before]


def add_one(worker: asyncopt.Worker, tensors: list[torch.Tensor]) -> None:
    """Writes to all."""
    for tensor in tensors:
        tensor.add_(1)


def test_a_lazy_copy_moves_alone() -> None:
    """Bytes that two tensors share until one is written."""
    origin = torch.arange(100.0)
    lazy = torch._lazy_clone(origin)
    asyncopt.launch(add_one, ([lazy],), 1, timeout=120)
    assert torch.equal(origin, torch.arange(100.0))
    assert torch.equal(lazy, origin + 1)
    lazy.add_(1)
    origin.sub_(1)
    assert torch.equal(lazy, origin + 3)
