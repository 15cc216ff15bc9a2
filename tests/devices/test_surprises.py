"""Failures in a worker with a device, and functions other than the usual loop."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from torch import nn

import asyncopt
from asyncopt.devices.push import Pusher
from asyncopt.run import Run, launch

from . import models
from .conftest import Train, assert_same

STEPS = 6


def descend(worker: Any, model: Any, optimizer: Any, before: Any) -> Any:
    """Some steps; `before` is called with the number of each, its loss and the worker."""
    x, y = (each[: models.BATCH].to(worker.device) for each in models.data())
    seen = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        seen.append(before(step, worker))
        (loss * (seen[-1] if isinstance(seen[-1], float) else 1)).backward()
        optimizer.step()
    return seen


def poison(step: int, worker: Any) -> float:
    return float("nan") if step == 1 else 1.0


def in_place(fn: Any, *args: Any) -> Run:
    return launch(fn, args, workers=1, mode="thread")


@pytest.mark.parametrize("sync", ["hogwild", "seqlock"])
@pytest.mark.parametrize("strength", [0.1, (0.1, 0.9)])
def test_corrected_gradients_that_are_not_finite_are_skipped(
    device: str, on: Train, sync: str, strength: Any
) -> None:
    for anywhere in (on, in_place):
        model = models.mlp()
        optimizer = asyncopt.SGD(model.parameters(), lr=0.1, sync=sync, delay_compensation=strength)
        with pytest.warns(RuntimeWarning, match="the push was skipped"):
            run = anywhere(descend, model, optimizer, poison)
        assert (run.ledger.pushes, run.ledger.skipped_nonfinite) == (STEPS - 1, 1)
        assert all(param.isfinite().all() for param in model.parameters())


def convert(worker: Any, model: nn.Module, optimizer: Any) -> None:
    model.double()
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()


def give_state(worker: Any, model: nn.Module, optimizer: Any) -> None:
    models.fit(worker, model, optimizer, *models.data())
    state = optimizer.state[next(model.parameters())]
    state["exp_avg"] = state["exp_avg"].clone()
    optimizer.step()
    optimizer.flush()


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (convert, r"params\[0\]: expected torch.float32, .* in other memory"),
        (give_state, r"optimizer.state: expected the entries that it had at the start"),
    ],
)
def test_what_cannot_be_pushed_is_refused(device: str, on: Train, fn: Any, message: str) -> None:
    model = models.mlp()
    with pytest.raises(asyncopt.WorkerError, match=message):
        on(fn, model, asyncopt.Adam(model.parameters()))


def rates(worker: Any, model: nn.Module, optimizer: Any) -> list[float]:
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    seen = []

    def follow(step: int, worker: Any) -> None:
        worker.schedule(scheduler)
        seen.append(optimizer.param_groups[0]["lr"])

    descend(worker, model, optimizer, follow)
    return seen


@pytest.mark.parametrize("lag", [0, 1])
def test_a_schedule_counts_pushes_that_are_on_their_way(
    device: str, on: Train, slow_lanes: None, lag: int
) -> None:
    model = models.mlp()
    run = on(rates, model, asyncopt.SGD(model.parameters(), lr=1.0), lag=lag)
    assert run.results[0] == [1 / (1 + step) for step in range(STEPS)]


class Counting(nn.Module):
    """Two modules share a buffer, in which each counts its calls."""

    calls: torch.Tensor

    def __init__(self, calls: torch.Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1) if calls is None else calls)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x


def with_a_shared_buffer() -> nn.Module:
    first = Counting()
    return nn.Sequential(first, models.lenet(), Counting(first.calls))


def test_shared_buffers_and_modules_that_are_passed_twice(device: str, on: Train) -> None:
    expected, model = with_a_shared_buffer(), with_a_shared_buffer()
    adam = asyncopt.Adam(expected.parameters(), lr=0.01)
    models.fit(models.alone(), expected, adam, *models.data())

    def fit(worker: Any, model: nn.Module, part: nn.Module, optimizer: Any) -> None:
        models.fit(worker, model, optimizer, *models.data())

    on(fit, model, model[1], asyncopt.Adam(model.parameters(), lr=0.01))  # type: ignore[index]
    assert_same(device, model, expected)
    for (name, one), other in zip(model.named_buffers(), expected.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


def test_a_push_that_failed_is_over(
    device: str, on: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, failing = Pusher._call, [True]

    def time_out_once(self: Pusher, *args: Any) -> int:
        if failing:
            failing.pop()
            raise asyncopt.LockTimeout("it was not free")
        return call(self, *args)

    monkeypatch.setattr(Pusher, "_call", time_out_once)

    def fn(worker: Any, model: nn.Module, optimizer: Any) -> None:
        def go_on(step: int, worker: Any) -> None:
            if step == 1:
                with pytest.raises(asyncopt.LockTimeout):
                    optimizer.flush()

        descend(worker, model, optimizer, go_on)

    model = models.mlp()
    run = on(fn, model, asyncopt.SGD(model.parameters(), lr=0.1), lag=1)
    assert run.ledger.pushes == STEPS - 1


def test_nothing_is_pushed_for_a_worker_that_has_ended(
    device: str, on: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Pusher._call

    def slowly(self: Pusher, *args: Any) -> int:
        time.sleep(0.1)
        return call(self, *args)

    monkeypatch.setattr(Pusher, "_call", slowly)

    def fn(worker: Any, model: nn.Module, optimizer: Any) -> None:
        x, y = (each.to(worker.device) for each in models.data())
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        raise OSError("on purpose")

    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1, nonfinite="propagate")
    with pytest.raises(asyncopt.WorkerError, match="on purpose"):
        on(fn, model, optimizer)
    assert not any(thread.name.startswith("asyncopt-push") for thread in threading.enumerate())
    assert optimizer.ledger().pushes == 0


def test_waits_for_the_last_push_count(device: str, on: Train, slow_lanes: None) -> None:
    model = models.mlp()
    run = on(models.fit, model, asyncopt.SGD(model.parameters(), lr=0.1), *models.data(8), 1)
    assert run.ledger.pushes == 1
    assert run.transfers is not None
    assert 0 <= run.transfers.hidden < 0.9
