"""On a GPU: equal to torch's fused optimizers, captured in graphs, scaled, shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.gpu import unavailable
from asyncopt.optim import thread_clone
from tests.optim.twins import RULES, ours, theirs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif(unavailable() is not None, reason=str(unavailable())),
]

SHAPES = ((0,), (), (1,), (15,), (16,), (17,), (7, 7), (4096,), (4097,), (1000, 1000))
RTOL = {torch.float32: 1e-6, torch.float64: 1e-12}


def params(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    torch.manual_seed(3)
    return [Parameter(torch.randn(shape, device="cuda").to(dtype)) for shape in SHAPES]


def fill(params: list[Parameter], seed: int) -> None:
    torch.manual_seed(seed)
    for p in params:
        grad = torch.randn(p.shape, device=p.device).to(p.dtype)
        if p.grad is None:
            p.grad = grad
        else:
            p.grad.copy_(grad)


def fused(rule: str) -> dict[str, bool]:
    """torch's fused implementation of a rule, or else its default one."""
    return {"fused": True} if rule in ("SGD", "Adam", "AdamW", "Adagrad") else {"foreach": False}


def assert_close(actual: list[Any], expected: list[Any], rtol: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("sync", ["hogwild", "atomic"])
@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_equals_torch(rule: str, dtype: torch.dtype, sync: str) -> None:
    actual, expected = params(dtype), params(dtype)
    optimizer = ours(rule)(actual, lr=0.01, sync=sync)
    reference = theirs(rule)(expected, lr=0.01, **fused(rule))
    for step in range(5):
        fill(actual, step)
        fill(expected, step)
        optimizer.step()
        reference.step()
    assert_close(actual, expected, RTOL[dtype])


@pytest.mark.parametrize("rule", RULES)
def test_rounds_as_on_the_cpu(rule: str) -> None:
    """The same random numbers, so that bfloat16 differs by rounding errors alone, and rarely."""
    actual = params(torch.bfloat16)
    expected = [Parameter(p.detach().cpu()) for p in actual]
    torch.manual_seed(5)
    optimizer = ours(rule)(actual, lr=0.01)
    torch.manual_seed(5)
    reference = ours(rule)(expected, lr=0.01)
    for step in range(3):
        fill(actual, step)
        for a, e in zip(actual, expected, strict=True):
            assert a.grad is not None
            e.grad = a.grad.cpu()
        optimizer.step()
        reference.step()
    different = sum(int((a.cpu() != e).sum()) for a, e in zip(actual, expected, strict=True))
    assert different < 1e-3 * sum(p.numel() for p in actual)


def test_graph() -> None:
    """A replayed step equals an eager one: it counts, and reads the rate on the device."""
    actual, expected = params(), params()
    rate = torch.tensor(0.02, device="cuda")
    optimizer = asyncopt.Adam(actual, lr=rate, capturable=True)
    reference = torch.optim.Adam(expected, lr=0.02, fused=True)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        fill(actual, 0)
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    fill(expected, 0)
    reference.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for step in range(1, 6):
        rate.mul_(0.9)
        reference.param_groups[0]["lr"] = float(rate)
        fill(actual, step)
        fill(expected, step)
        graph.replay()
        reference.step()
    torch.cuda.synchronize()
    assert_close(actual, expected, 1e-6)
    assert {float(optimizer.state[p]["step"]) for p in actual} == {6.0}


def test_capture_needs_a_step_before() -> None:
    (mine,) = [Parameter(torch.ones(3, device="cuda"))]
    mine.grad = torch.ones(3, device="cuda")
    optimizer = asyncopt.Adam([mine])
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="a step before the capture"), torch.cuda.graph(graph):
        optimizer.step()


def test_grad_scaler() -> None:
    outcomes = []
    for cls in (asyncopt.Adam, torch.optim.Adam):
        mine = params()
        optimizer = cls(mine, lr=0.01, fused=True)
        scaler = torch.amp.GradScaler("cuda", init_scale=2.0**8, growth_interval=3)
        for step in range(8):
            torch.manual_seed(step)
            weight = float("inf") if step == 4 else 1.0
            optimizer.zero_grad()
            loss = sum((p * torch.randn(p.shape, device="cuda")).sum() for p in mine)
            assert isinstance(loss, Tensor)
            scaler.scale(loss * weight).backward()
            scaler.step(optimizer)
            scaler.update()
        outcomes.append((mine, scaler.get_scale()))
    assert_close(outcomes[0][0], outcomes[1][0], 1e-6)
    assert outcomes[0][1] == outcomes[1][1]


def test_streams_lose_nothing_under_atomic() -> None:
    """Two streams add at once to the same tensor: every step of both is there."""
    steps, size = 50, 1 << 20
    weight = Parameter(torch.zeros(size, device="cuda"))
    optimizer = asyncopt.SGD([weight], lr=1.0, sync="atomic")
    workers = [(weight, optimizer), thread_clone((weight, optimizer))]
    streams = [torch.cuda.Stream() for _ in workers]
    for param, _ in workers:
        param.grad = torch.full_like(weight, -1.0)
    torch.cuda.synchronize()
    for _ in range(steps):
        for stream, (_, opt) in zip(streams, workers, strict=True):
            with torch.cuda.stream(stream):
                opt.step()
    torch.cuda.synchronize()
    assert bool((weight == 2 * steps).all())


def _train(optimizer: asyncopt.SGD, steps: int) -> None:
    (weight,) = optimizer.param_groups[0]["params"]
    weight.grad = torch.full_like(weight, -1.0)
    for _ in range(steps):
        optimizer.step()
    torch.cuda.synchronize()


def test_processes_share_tensors() -> None:
    """CUDA IPC: spawned processes step on the parameters, the state and the count of this one."""
    weight = Parameter(torch.zeros(1 << 16, device="cuda"))
    optimizer = asyncopt.Adam([weight], lr=0.0, sync="atomic")
    context = torch.multiprocessing.get_context("spawn")
    workers = [context.Process(target=_train, args=(optimizer, 20)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert float(optimizer.state[weight]["step"]) == 40.0


def test_nonfinite_gradients_are_skipped() -> None:
    mine = params()
    optimizer = asyncopt.Adam(mine, nonfinite="skip")
    fill(mine, 1)
    optimizer.step()
    before = [p.detach().clone() for p in mine]
    grad = mine[-1].grad
    assert grad is not None
    grad[-1, -1] = float("inf")
    optimizer.step()
    assert_close(mine, before, 0.0)
    assert optimizer.ledger().skipped_nonfinite == 1


def test_refusals() -> None:
    here, there = Parameter(torch.ones(3, device="cuda")), Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"params\[1\]: expected a tensor on cuda:0"):
        asyncopt.SGD([here, there])
    with pytest.raises(ValueError, match=r"sync: expected 'hogwild' or 'atomic'"):
        asyncopt.SGD([here], sync="leashed")
    with pytest.raises(ValueError, match=r"share_memory: expected parameters on cpu"):
        asyncopt.SGD([here]).share_memory()


def test_unknown_device() -> None:
    from asyncopt import _cuda

    with pytest.raises(asyncopt.DeviceError, match=r"cuda:99: cudaSetDevice: cudaErrorInvalid"):
        _cuda.open(99)
