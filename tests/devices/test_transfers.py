"""What runs beside computing is told, by spans and in sum, and it does run beside computing."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncopt
from asyncopt.devices import Spans
from asyncopt.run import transfers
from asyncopt.run.transfers import ROWS, TransferLog, Transfers

from . import models
from .conftest import COPY, Train

COMPUTE = 0.006  # s of each layer, forward and backward
LAYERS = 30
STEPS = 12  # so many that the wait for the last one, which nothing hides, is little


class Slowly(torch.autograd.Function):
    """Computes nothing, for a while."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        time.sleep(COMPUTE)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        time.sleep(COMPUTE)
        return grads[0]


class Layer(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = Slowly.apply(super().forward(x))  # type: ignore[no-untyped-call]
        return out


def slow_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(*(Layer(16, 16, bias=False) for _ in range(LAYERS)))  # a chunk each


def descend(worker: Any, model: nn.Module, optimizer: Any, x: Tensor) -> None:
    for batch in worker.batches(x, batch_size=4):
        optimizer.zero_grad()
        model(batch).square().sum().backward()
        optimizer.step()


def union(spans: list[tuple[float, float]]) -> float:
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


@pytest.mark.usefixtures("slow_lanes")
@pytest.mark.parametrize("lag", [0, 1])
def test_nine_tenths_are_hidden_under_a_long_enough_compute(lag: int, tmp_path: Path) -> None:
    model = slow_model()
    optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
    path = tmp_path / "trace.json"
    run = asyncopt.launch(
        descend,
        (model, optimizer, torch.ones(4 * STEPS, 16)),
        devices=["cpu"],
        lag=lag,
        mode="thread",
        trace=path,
    )
    assert run.transfers is not None
    print(run.transfers, run.transfers.hidden)
    copies = 2 * LAYERS * STEPS * COPY
    assert run.transfers.seconds > 0.7 * copies  # some at the same time
    assert run.transfers.hidden >= 0.9

    # The trace says the same.
    events = json.loads(path.read_text())
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert list(names.values()) == ["worker 0", *(f"worker 0: {row}" for row in ROWS)]
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in names.values()}
    for e in events:
        if e["ph"] == "X":
            rows[names[e["tid"]]].append((e["ts"], e["ts"] + e["dur"]))
    out, push, back, stalled = (rows[f"worker 0: {row}"] for row in ROWS)
    assert [len(row) for row in (out, push, back)] == [LAYERS * STEPS] * 3
    seconds = union([*out, *push, *back]) * 1e-6
    assert seconds == pytest.approx(run.transfers.seconds, rel=0.02)
    waited = sum(end - begin for begin, end in stalled) * 1e-6
    assert 1 - waited / seconds == pytest.approx(run.transfers.hidden, abs=0.02)


@pytest.mark.usefixtures("slow_lanes")
def test_gradients_leave_in_backward_and_parameters_come_in_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Spans] = []
    monkeypatch.setattr(transfers._Writer, "__call__", lambda self, spans: told.append(spans))
    model = slow_model()
    optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
    moments: list[int] = []

    def watch(worker: Any, model: nn.Module, optimizer: Any, x: Tensor) -> None:
        for batch in worker.batches(x, batch_size=4):
            optimizer.zero_grad()
            moments.append(time.monotonic_ns())
            loss = model(batch).square().sum()
            moments.append(time.monotonic_ns())
            loss.backward()
            moments.append(time.monotonic_ns())
            optimizer.step()

    args = (model, optimizer, torch.ones(4 * 4, 16))
    asyncopt.launch(watch, args, devices=["cpu"], mode="thread")
    forwards, backwards, steps = (moments[i::3] for i in range(3))
    out = told[1].out
    assert len(out) == LAYERS
    assert sum(backwards[1] < begin < steps[1] for begin, _ in out) >= LAYERS - 1
    # The pushes of the last layers go on while the next forward pass has begun.
    assert sum(forwards[2] < end < backwards[2] for _, end in told[1].back) >= LAYERS - 4


def test_hidden() -> None:
    assert Transfers(2.0, 0.5).hidden == 0.75
    assert Transfers(2.0, 3.0).hidden == 0
    assert math.isnan(Transfers(0.0, 0.0).hidden)


def test_what_happens_at_once_counts_once() -> None:
    log = TransferLog(workers=2)
    write = log.of(1)
    ms = 1_000_000
    write(Spans(out=[(0, 4 * ms)], push=[(3 * ms, 6 * ms)], back=[(5 * ms, 7 * ms)]))
    assert log.total() == Transfers(0.007, 0.0)
    # Gradients of the next push left while the one before was still on its way.
    write(Spans(out=[(6 * ms, 9 * ms)], stalled=[(9 * ms, 10 * ms)]))
    log.of(0)(Spans(out=[(0, ms)]))
    assert log.total().seconds == pytest.approx(0.010)
    assert log.total().stalled_seconds == pytest.approx(0.001)
    events, _ = log.board.events(len(ROWS) * 1)
    assert [(ns, phase) for _, ns, phase in events] == [
        (0, "push"),
        (4 * ms, "done"),
        (6 * ms, "push"),
        (9 * ms, "done"),
    ]


def test_without_devices_there_is_nothing_to_tell(on: Train) -> None:
    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    run = asyncopt.launch(models.fit, (model, optimizer, *models.data()), 1, mode="thread")
    assert run.transfers is None
