"""Runs of several workers with devices: the guarantees of workers in place hold for them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import asyncopt
from asyncopt.devices.push import Pusher
from asyncopt.run.delays import Delay

from . import models
from .conftest import Train, assert_same

SYNCS = asyncopt.syncs()


def worst(run: Any) -> int:
    return int(run.ledger.staleness.edges[np.flatnonzero(run.ledger.staleness.counts)[-1]])


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("lag", [0, 1])
def test_every_push_is_counted_once(on: Train, sync: str, lag: int) -> None:
    model = models.lenet()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.01, sync=sync)
    run = on(models.fit, model, optimizer, *models.data(), 4, workers=2, lag=lag)
    assert run.ledger.pushes == run.ledger.version == run.ledger.staleness.count == 20
    assert all(bool(torch.isfinite(param).all()) for param in model.parameters())


@pytest.mark.parametrize("sync", SYNCS)
def test_steps_are_counted_once_per_tensor(on: Train, sync: str) -> None:
    model = models.lenet()
    optimizer = asyncopt.Adam(model.parameters(), sync=sync)
    on(models.fit, model, optimizer, *models.data(), 4, workers=2)
    steps = {float(each["step"]) for each in optimizer.state_dict()["state"].values()}
    assert steps == {20.0}


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hogwild", "mutex", "seqlock", "leashed"])
@pytest.mark.parametrize("bound", [0, 1])
def test_the_bound_of_staleness(on: Train, sync: str, bound: int) -> None:
    """A turn ends when its push is in the store, however long that takes in the background."""
    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.01, sync=sync)
    delay = Delay.exponential(0.002, seed=7)
    data = models.data()
    run = on(models.fit, model, optimizer, *data, 3, workers=3, max_staleness=bound, delay=delay)
    assert run.ledger.pushes == 15
    assert worst(run) <= bound


def test_no_staleness_is_serial_training(device: str, on: Train) -> None:
    def train(worker: Any, model: nn.Module, optimizer: Any, x: Any, y: Any) -> None:
        for xb, yb in worker.batches((x, y), 8, epochs=2, dispatch="dynamic"):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(xb), yb).backward()
            optimizer.step()

    expected, model = models.mlp(), models.mlp()
    train(models.alone(), expected, asyncopt.SGD(expected.parameters(), lr=0.1), *models.data())
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    on(train, model, optimizer, *models.data(), workers=3, max_staleness=0)
    assert_same(device, model, expected)


def test_mixed_devices() -> None:
    devices: list[Any] = (
        ["cpu", "cuda:0"] if torch.cuda.is_available() else ["cpu", torch.device("cpu")]
    )
    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.01)
    run = asyncopt.launch(models.fit, (model, optimizer, *models.data()), devices=devices)
    assert run.workers == 2
    assert run.results == [str(device) for device in devices]
    assert run.ledger.pushes == 10


def test_buffers_are_those_of_worker_0(device: str, on: Train) -> None:
    expected: Any = models.lenet()
    model: Any = models.lenet()
    models.fit(
        models.alone(), expected, asyncopt.SGD(expected.parameters(), lr=0.01), *models.data()
    )
    on(models.fit, model, asyncopt.SGD(model.parameters(), lr=0.01), *models.data())
    for one, other in zip(model.buffers(), expected.buffers(), strict=True):
        assert one.device.type == "cpu"
        assert int(model[1].num_batches_tracked) == 10
        torch.testing.assert_close(one, other, rtol=0 if device == "cpu" else 1e-4, atol=1e-6)


def look_around(worker: Any, model: Any, optimizer: Any, rows: dict[str, Any]) -> Any:
    (batch,) = worker.batches(rows["x"], batch_size=4, shuffle=False)
    devices = {str(tensor.device) for tensor in (*model.parameters(), *model.buffers(), batch)}
    optimizer.zero_grad()
    model(torch.ones(2, 1, 12, 12, device=worker.device)).sum().backward()
    before = model[0].weight.detach().clone()
    optimizer.step()
    optimizer.flush()
    moved = not torch.equal(before, model[0].weight)
    model.eval()
    state = optimizer.state_dict()["state"][0]
    return devices, moved, {name: float(value.sum()) for name, value in state.items()}


def test_what_a_worker_sees(device: str, on: Train) -> None:
    model = models.lenet()
    optimizer = asyncopt.Adam(model.parameters(), lr=0.1)
    ((devices, moved, state),) = on(look_around, model, optimizer, {"x": torch.ones(4, 3)}).results
    assert devices == {device}
    assert moved
    assert state["step"] == 1
    assert state["exp_avg_sq"] > 0


def test_a_push_that_fails_names_device_and_call(
    device: str, on: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, push: Any) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(Pusher, "_push_all", fail)
    model = models.mlp()
    with pytest.raises(asyncopt.WorkerError) as caught:
        on(models.fit, model, asyncopt.SGD(model.parameters(), lr=0.1), *models.data())
    assert isinstance(caught.value.__cause__, asyncopt.DeviceError)
    expected = f"{device}: push in the background: RuntimeError: no such luck"
    assert str(caught.value.__cause__) == expected


def test_nothing_is_left_of_a_failed_replica(on: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory while the replica is made: a typed error, and no thread is left."""

    def exhausted(*args: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr("asyncopt.devices.replica.Slot", exhausted)
    model = models.mlp()
    threads = set(threading.enumerate())
    with pytest.raises(asyncopt.WorkerError, match=r"expected room for a replica.*20\.00 GiB"):
        on(models.fit, model, asyncopt.SGD(model.parameters(), lr=0.1), *models.data())
    assert set(threading.enumerate()) <= threads


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("sync", ["hogwild", "seqlock"])
def test_checkpoints_have_no_push_in_flight(on: Train, tmp_path: Path, sync: str, lag: int) -> None:
    """Parameters and steps in every checkpoint belong together."""
    model: Any = models.lenet()
    optimizer = asyncopt.Adam(model.parameters(), sync=sync)
    checkpoints = asyncopt.Checkpoints(tmp_path / "run", every=0.02, keep=100)
    on(
        models.fit,
        model,
        optimizer,
        *models.data(),
        6,
        workers=2,
        lag=lag,
        checkpoint=checkpoints,
        delay=Delay.constant(0.005),
    )
    found = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert len(found) > 2
    for path in found:
        checkpoint = asyncopt.load(path)
        steps = {
            int(value)
            for name, value in checkpoint.tensors.items()
            if name.startswith("optimizers.") and name.endswith(".step")
        }
        assert steps == {checkpoint.step}
    final = asyncopt.load(found[-1])
    assert final.step == 30
    torch.testing.assert_close(final.tensors["modules.0.0.weight"], model[0].weight.detach())
    assert int(final.tensors["modules.0.1.num_batches_tracked"]) == 18  # those of worker 0


class Interrupt:
    """Presses Ctrl-C in the seventh step."""

    steps = 0

    def __call__(self, model: nn.Module, optimizer: Any) -> None:
        self.steps += 1
        if self.steps == 7:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(2.0)  # for the launcher to receive it


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hogwild", "seqlock"])
def test_a_run_goes_on_where_it_was_interrupted(
    device: str, on: Train, tmp_path: Path, sync: str
) -> None:
    expected, model, again = models.mlp(), models.mlp(), models.mlp()
    models.fit(models.alone(), expected, asyncopt.Adam(expected.parameters()), *models.data(), 4)
    options: dict[str, Any] = {"checkpoint": tmp_path / "run"}
    optimizer = asyncopt.Adam(model.parameters(), sync=sync)
    with pytest.raises(KeyboardInterrupt):
        on(models.fit, model, optimizer, *models.data(), 4, Interrupt(), **options)
    optimizer = asyncopt.Adam(again.parameters(), sync=sync)
    run = on(models.fit, again, optimizer, *models.data(), 4, resume=True, **options)
    assert 0 < run.ledger.pushes <= 13
    assert optimizer.store is not None
    assert optimizer.store.version == 20
    assert_same(device, again, expected)
