"""Device workers on a GPU: properties that tests/devices cannot check on the host."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import asyncopt
from asyncopt.devices.lanes import CudaLane
from asyncopt.devices.push import copy

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no CUDA device on this machine"
)

GPU = "cuda:0"
WIDTH = 2048  # a layer has a chunk of its own, and takes long enough to hide a copy


def wide(layers: int = 6) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(layers)))


def descend(worker: Any, model: nn.Module, optimizer: Any, x: torch.Tensor) -> int:
    """The stream that the worker computes on."""
    for batch in worker.batches(x, batch_size=4096):
        optimizer.zero_grad()
        assert batch.device == worker.device
        model(batch).square().mean().backward()
        optimizer.step()
    return torch.cuda.current_stream().cuda_stream


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_two_workers_of_one_device_have_streams_of_their_own(mode: str) -> None:
    model = wide()
    optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(8 * 4096, WIDTH)
    run = asyncopt.launch(descend, (model, optimizer, x), devices=[GPU, GPU], mode=mode)
    assert run.ledger.pushes == 8
    if mode == "thread":
        assert len({*run.results, torch.cuda.default_stream().cuda_stream}) == 3
    assert all(param.device.type == "cpu" for param in model.parameters())


def test_transfers_are_hidden_and_traced(tmp_path: Path) -> None:
    model = wide()
    optimizer = asyncopt.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(16 * 4096, WIDTH)
    path = tmp_path / "trace.json"
    run = asyncopt.launch(descend, (model, optimizer, x), devices=[GPU], lag=1, trace=path)
    assert run.transfers is not None
    assert 0 < run.transfers.seconds < run.elapsed
    assert 0 <= run.transfers.hidden <= 1
    spans = [e for e in json.loads(path.read_text()) if e["ph"] == "X" and 1 <= e["tid"] <= 3]
    assert {e["tid"] for e in spans} == {1, 2, 3}
    assert all(0 <= e["dur"] < 1e6 * run.elapsed for e in spans)


def test_a_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are unscaled after they were sent; a step that overflows is left out."""

    def train(worker: Any, model: nn.Module, optimizer: Any, x: torch.Tensor) -> None:
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
        for step, batch in enumerate(worker.batches(x, batch_size=16, shuffle=False)):
            optimizer.zero_grad()
            loss = model(batch).square().mean()
            loss = loss * math.inf if step == 2 else loss
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()

    x = torch.randn(16 * 6, WIDTH)
    expected, model = wide(2).cuda(), wide(2)
    theirs = torch.optim.SGD(expected.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    for step, batch in enumerate(x.cuda().split(16)):
        if step == 2:
            continue
        theirs.zero_grad()
        scaler.scale(expected(batch).square().mean()).backward()
        scaler.unscale_(theirs)
        nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        scaler.step(theirs)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    asyncopt.launch(train, (model, optimizer, x), devices=[GPU], mode="thread")
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-4, atol=1e-6)


def test_a_replica_for_which_there_is_no_room() -> None:
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        model = wide(12)
        optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
        with pytest.raises(asyncopt.WorkerError, match=r"cuda:0: expected room for a replica"):
            asyncopt.launch(
                descend, (model, optimizer, torch.ones(1, WIDTH)), devices=[GPU], mode="thread"
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_lane_waits_for_compute_and_compute_for_a_lane() -> None:
    device = torch.device(GPU)
    lane = CudaLane(device)
    x = torch.zeros(1 << 24, device=device)
    there = torch.empty(1 << 24, pin_memory=True)
    for i in range(20):
        x.add_(1)
        ticket = lane.submit(partial(copy, there, x), lane.moment())
        ticket.wait()  # the next addition comes after the copy
        x.add_(1)
        ticket.finish()
        assert there[0] == there[-1] == 2 * i + 1
        begin, end = lane.ns(ticket.begin), lane.ns(ticket.end)
        assert 0 < end - begin < 1e9
    lane.close()
