"""Transfers overlap with computing; spans and totals report by how much."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import asyncopt
from asyncopt.devices import Spans
from asyncopt.devices.lanes import ThreadLane
from asyncopt.run.transfers import ROWS, TransferLog, Transfers

from . import models
from .conftest import COPY, Train

LAYERS = 6
STEPS = 4
PATIENCE = 20.0  # s that one side waits for what the other must do meanwhile


class Gate:
    """An event counter; `wait` returns at a given count or after a timeout."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._count = 0
        self.in_vain = 0

    def count(self) -> None:
        with self._changed:
            self._count += 1
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._count >= count, PATIENCE):
                self.in_vain += 1


class Meanwhile(torch.autograd.Function):
    """Passes values on, and calls something in the forward pass and in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Any, backward: Any) -> Tensor:
        ctx.backward = backward
        forward()
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        ctx.backward()
        return grads[0], None, None


def nothing() -> None:
    pass


class Layer(nn.Linear):
    """A linear layer before which something is called in the forward pass, and in backward after
    its gradient was accumulated.
    """

    before: Callable[[], None] = staticmethod(nothing)
    after: Callable[[], None] = staticmethod(nothing)

    def forward(self, x: Tensor) -> Tensor:
        x = Meanwhile.apply(x, self.before, self.after)  # type: ignore[no-untyped-call]
        return super().forward(x)


def layers() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(*(Layer(16, 16, bias=False) for _ in range(LAYERS)))  # a chunk each


def descend(worker: Any, model: nn.Module, optimizer: Any, x: Tensor) -> None:
    for batch in worker.batches(x, batch_size=4):
        optimizer.zero_grad()
        model(batch.requires_grad_()).square().sum().backward()
        optimizer.step()


def union(spans: list[tuple[float, float]]) -> float:
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total


@pytest.mark.usefixtures("slow_lanes")
@pytest.mark.parametrize("lag", [0, 1])
def test_the_trace_and_the_sum_say_the_same(lag: int, tmp_path: Path) -> None:
    model = layers()
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
    one_way = LAYERS * STEPS * COPY
    assert run.transfers.seconds > one_way  # there and back, some at the same time

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
    assert max(0, 1 - waited / seconds) == pytest.approx(run.transfers.hidden, abs=0.02)


def after_copies(monkeypatch: pytest.MonkeyPatch, lane: str, call: Callable[[], None]) -> None:
    """Calls something after each copy of a lane."""
    submit = ThreadLane.submit

    def watched(self: ThreadLane, work: Callable[[], None], after: Any = None) -> Any:
        def work_and_call() -> None:
            work()
            call()

        is_watched = self._thread.name == f"asyncopt-{lane}"
        return submit(self, work_and_call if is_watched else work, after)

    monkeypatch.setattr(ThreadLane, "submit", watched)


def test_gradients_leave_in_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer's backward pass ends when the gradient of the layer after it is on the host."""
    landed, passed = Gate(), itertools.count()
    after_copies(monkeypatch, "out", landed.count)

    def wait() -> None:
        step, place = divmod(next(passed), LAYERS)
        landed.wait(step * LAYERS + place)

    monkeypatch.setattr(Layer, "after", staticmethod(wait))
    model = layers()
    optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
    args = (model, optimizer, torch.ones(4 * STEPS, 16))
    asyncopt.launch(descend, args, devices=["cpu"], mode="thread")
    assert next(passed) == LAYERS * STEPS
    assert landed.in_vain == 0


def test_parameters_come_in_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's parameters come when the forward pass is in the layer before it."""
    begun, came = Gate(), itertools.count()

    def wait() -> None:
        copies = next(came)
        # Not the pull before the first forward pass, and not the last push, which none follows.
        if LAYERS <= copies < LAYERS * STEPS:
            begun.wait(copies)

    after_copies(monkeypatch, "back", wait)
    monkeypatch.setattr(Layer, "before", staticmethod(begun.count))
    model = layers()
    optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
    args = (model, optimizer, torch.ones(4 * STEPS, 16))
    asyncopt.launch(descend, args, devices=["cpu"], mode="thread")
    assert next(came) == LAYERS * (1 + STEPS)
    assert begun.in_vain == 0


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
    # They left while nothing else was on its way, and before the end of the push.
    write = log.of(0)
    write(Spans(out=[(10 * ms, 11 * ms)], back=[(15 * ms, 16 * ms)]))
    write(Spans(out=[(12 * ms, 13 * ms)], back=[(15 * ms, 17 * ms)]))
    assert log.total().seconds == pytest.approx(0.014)
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
