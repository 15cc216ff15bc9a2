"""Device steps except the kernel launches, on a device in host memory: equal to host steps."""

from __future__ import annotations

import copy
import itertools
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.multiprocessing
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.gpu import Device
from asyncopt.optim import thread_clone
from tests.optim.twins import RULES, ours, theirs

from .conftest import host_library, open_host_device

pytestmark = pytest.mark.usefixtures("host_device")

SHAPES = ((7, 5), (), (0,), (4097,), (64,))


def params(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    torch.manual_seed(3)
    return [Parameter(torch.randn(shape).to(dtype)) for shape in SHAPES]


def fill(params: list[Parameter], seed: int, scale: float = 1.0) -> None:
    torch.manual_seed(seed)
    for p in params:
        p.grad = (torch.randn(p.shape) * scale).to(p.dtype)


def assert_equal(actual: list[Any], expected: list[Any], rtol: float = 0.0) -> None:
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=rtol, atol=rtol, equal_nan=True)


@pytest.mark.parametrize("sync", ["hogwild", "atomic"])
@pytest.mark.parametrize("rule", RULES)
def test_equals_torch(rule: str, sync: str) -> None:
    actual, expected = params(), params()
    optimizer, reference = ours(rule)(actual, lr=0.02, sync=sync), theirs(rule)(expected, lr=0.02)
    for step in range(5):
        fill(actual, step)
        fill(expected, step)
        if step == 3:
            actual[0].grad = expected[0].grad = None
        optimizer.step()
        reference.step()
    assert_equal(actual, expected, rtol=2e-6)


@pytest.mark.parametrize("options", [{}, {"state_dtype": torch.bfloat16}], ids=str)
def test_flat_gradients_and_rounding(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, host_device: Device
) -> None:
    """The same random numbers as the host's own steps, whatever the gradients' memory."""
    dtype = torch.float32 if options else torch.bfloat16
    results = []
    for device in (host_device, None):
        monkeypatch.setattr("asyncopt.optim.parameters.device_of", lambda _, d=device: d)
        torch.manual_seed(11)
        mine = params(dtype)
        optimizer = asyncopt.Adam(mine, lr=0.02, flat_grads=True, **options)
        for step in range(4):
            optimizer.zero_grad()
            torch.manual_seed(step)
            for p in mine:
                assert p.grad is not None
                p.grad.add_(torch.randn(p.shape).to(p.dtype))
            optimizer.step()
        results.append([*mine, *(optimizer.state[p]["exp_avg"] for p in mine)])
    assert_equal(results[0], results[1])


def test_grad_scaler() -> None:
    """Unscaled by the step, left out on overflow, clipped gradients unscaled once."""
    outcomes: list[tuple[list[Parameter], float]] = []
    for cls in (asyncopt.Adam, torch.optim.Adam):
        mine = params()
        optimizer = cls(mine, lr=0.02)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
        for step in range(8):
            torch.manual_seed(step)
            weight = float("inf") if step == 4 else 1.0
            optimizer.zero_grad()
            loss = sum((p * torch.randn(p.shape)).sum() for p in mine)
            assert isinstance(loss, Tensor)
            scaler.scale(loss * weight).backward()
            if step % 2:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(mine, 1.0)
            scaler.step(optimizer)
            scaler.update()
        outcomes.append((mine, scaler.get_scale()))
        steps = {float(optimizer.state[p]["step"]) for p in mine}
        assert steps == {7.0}
    assert_equal(outcomes[0][0], outcomes[1][0], rtol=2e-6)
    assert outcomes[0][1] == outcomes[1][1]


@pytest.mark.parametrize("sync", ["hogwild", "atomic"])
def test_grad_scaler_leaves_unscaled_gradients(sync: str) -> None:
    """As torch's fused optimizers do, so that norms and sums of gradients are unscaled."""
    left = []
    for cls, options in ((asyncopt.Adam, {"sync": sync}), (torch.optim.Adam, {"fused": True})):
        mine = params()
        optimizer = cls(mine, lr=0.02, **options)
        scaler = torch.amp.GradScaler("cpu", init_scale=100.0)
        optimizer.step()  # from now on it unscales
        fill(mine, 1, scale=100.0)
        scaler.scale(torch.ones(()))
        scaler.step(optimizer)
        left.append([*(p.grad for p in mine), *mine])
    assert_equal(left[0], left[1], rtol=2e-6)


def test_unscaled_gradients_in_another_layout() -> None:
    mine = Parameter(torch.ones(5, 7))
    optimizer = asyncopt.SGD([mine], lr=1.0)
    optimizer.step()
    wanted = torch.randn(5, 7)
    mine.grad = (wanted * 64).t().contiguous().t()
    optimizer.grad_scale = torch.tensor(64.0)  # type: ignore[attr-defined]
    optimizer.step()
    assert_equal([mine.detach(), mine.grad], [1 - wanted, wanted])


def test_grad_scaler_without_gradients() -> None:
    """One of two optimizers may have none, in a model with a frozen part, say."""
    mine = params()
    optimizer = asyncopt.Adam(mine, lr=0.02)
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.step(optimizer)
    assert_equal(mine, params())


def test_scaling_ends_with_the_step() -> None:
    """An error between does not leave the scale to the next step."""
    (mine,) = [Parameter(torch.ones(3))]
    optimizer = asyncopt.SGD([mine], lr=1.0)
    mine.grad = torch.ones(3)
    optimizer.step()
    optimizer.grad_scale = torch.ones(2)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"grad_scale: expected one float32"):
        optimizer.step()
    optimizer.grad_scale = torch.tensor(4.0)  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale  # type: ignore[attr-defined]
    mine.grad = torch.ones(3)
    optimizer.step()
    assert_equal([mine.detach()], [torch.full((3,), 1 - 1 - 0.25 - 1)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_learning_rate_on_the_device(dtype: torch.dtype) -> None:
    """A value that a scheduler writes into the tensor takes effect."""
    actual, expected = params(), params()
    rate = torch.tensor(0.5, dtype=dtype)
    optimizer = asyncopt.Adam(actual, lr=rate, capturable=True)
    reference = torch.optim.Adam(expected, lr=0.5)
    for step in range(3):
        fill(actual, step)
        fill(expected, step)
        rate.mul_(0.5)
        reference.param_groups[0]["lr"] *= 0.5
        optimizer.step()
        reference.step()
    assert_equal(actual, expected, rtol=2e-6)


def test_nonfinite_gradients_are_counted() -> None:
    mine = params()
    optimizer = asyncopt.SGD(mine, lr=0.1, momentum=0.9, nonfinite="skip")
    fill(mine, 1)
    optimizer.step()
    before = [p.detach().clone() for p in mine]
    grad = mine[3].grad
    assert grad is not None
    grad[4096] = float("nan")
    optimizer.step()
    assert_equal(mine, before)
    assert optimizer.ledger().skipped_nonfinite == 1
    optimizer.add_param_group({"params": [Parameter(torch.ones(2))]})  # another plan
    optimizer.step()
    assert optimizer.ledger().skipped_nonfinite == 2
    assert_equal(mine, before)


def test_several_workers_share_tensors() -> None:
    """A clone for another thread or stream has the parameters, the state and the step."""
    mine = params()
    optimizer = asyncopt.Adam(mine, lr=0.02, sync="atomic")
    others, clone = thread_clone((mine, optimizer))
    fill(mine, 1)
    fill(others, 2)
    optimizer.step()
    clone.step()
    optimizer.step()
    expected = params()
    reference = torch.optim.Adam(expected, lr=0.02)
    for seed in (1, 2, 1):
        fill(expected, seed)
        reference.step()
    assert_equal(mine, expected, rtol=2e-6)
    assert {float(optimizer.state[p]["step"]) for p in mine} == {3.0}
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(mine, others, strict=True))


def test_clones_round_by_numbers_of_their_own() -> None:
    """Equal numbers would add up rounding errors of several workers instead of cancelling them."""
    weight = Parameter(torch.ones(64, dtype=torch.bfloat16))
    optimizer = asyncopt.SGD([weight], lr=1.0)
    (first,), (second,) = (thread_clone((optimizer,)) for _ in range(2))
    (of_first,) = thread_clone((first,))
    results = []
    for worker in (optimizer, first, second, of_first):
        (mine,) = worker.param_groups[0]["params"]
        with torch.no_grad():
            mine.fill_(1)
        mine.grad = torch.full_like(weight, 2**-9)  # a quarter of what 1 can go down by: half
        worker.step()
        results.append(weight.detach().clone())
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(results, 2))


WAITS: dict[str, Callable[[list[asyncopt.Adam]], object]] = {
    "step": lambda optimizers: optimizers[0].step(),
    "count": lambda optimizers: optimizers[0].ledger(),
    "end": lambda optimizers: optimizers.pop(),
}


@pytest.mark.parametrize("case", WAITS)
def test_other_threads_run_while_one_waits_for_the_device(case: str) -> None:
    mine = params()
    optimizers = [asyncopt.Adam(mine, lr=0.02)]
    fill(mine, 1)
    optimizers[0].step()
    library = host_library()
    before = library.overdue()
    library.hold(True)
    thread = threading.Thread(target=WAITS[case], args=(optimizers,))
    thread.start()
    while thread.is_alive() and library.waiting() == 0:
        time.sleep(0.001)
    library.hold(False)
    thread.join()
    assert library.overdue() == before


def _step_there(optimizer: asyncopt.Adam, steps: int) -> None:
    device = open_host_device()
    with mock.patch("asyncopt.optim.parameters.device_of", return_value=device):
        for step in range(steps):
            fill(optimizer.param_groups[0]["params"], step)
            optimizer.step()


def test_spawned_processes_share_tensors() -> None:
    """Parameters, state and count are this process's own: of a copy that has not stepped yet."""
    optimizer = copy.deepcopy(asyncopt.Adam(params(), lr=0.02, sync="atomic"))
    mine = optimizer.param_groups[0]["params"]
    context = torch.multiprocessing.get_context("spawn")
    worker = context.Process(target=_step_there, args=(optimizer, 3))
    worker.start()
    worker.join(120)
    assert worker.exitcode == 0
    expected = params()
    reference = torch.optim.Adam(expected, lr=0.02)
    for step in range(3):
        fill(expected, step)
        reference.step()
    assert_equal(mine, expected, rtol=2e-6)
    assert {float(optimizer.state[p]["step"]) for p in mine} == {3.0}


def test_copies_are_private() -> None:
    mine = params()
    optimizer = asyncopt.Adam(mine, lr=0.02)
    fill(mine, 1)
    optimizer.step()
    before = [p.detach().clone() for p in mine]
    for again in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        theirs_now = again.param_groups[0]["params"]
        assert_equal(theirs_now, mine)
        fill(theirs_now, 2)
        again.step()
        assert {float(again.state[p]["step"]) for p in theirs_now} == {2.0}
    assert_equal(mine, before)
    assert {float(optimizer.state[p]["step"]) for p in mine} == {1.0}


def test_state_dict_goes_to_torch_and_back() -> None:
    mine, theirs_ = params(), params()
    optimizer, reference = asyncopt.Adam(mine, lr=0.02), torch.optim.Adam(theirs_, lr=0.02)
    for step in range(6):
        fill(mine, step)
        fill(theirs_, step)
        optimizer.step()
        reference.step()
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
            reference.load_state_dict(state)
    assert_equal(mine, theirs_, rtol=4e-6)


@pytest.mark.parametrize("capturable", [False, True])
def test_state_dict_counts_as_torch_does(capturable: bool) -> None:
    """In float32 in a tensor of its own, which torch's optimizers read without waiting."""
    mine = params()
    optimizer = asyncopt.Adam(mine, capturable=capturable)
    fill(mine, 1)
    optimizer.step()
    state = optimizer.state_dict()["state"]
    for i, p in enumerate(mine):
        assert state[i]["step"].dtype == torch.float32
        assert state[i]["step"].device.type == "cpu"
        assert state[i]["exp_avg"] is optimizer.state[p]["exp_avg"]
    optimizer.step()
    assert {float(entries["step"]) for entries in state.values()} == {1.0}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "sync": ({"sync": "mutex"}, r"sync: expected 'hogwild' or 'atomic' .*got 'mutex'.*cpu"),
    "audit": ({"audit": True}, r"audit: expected False .*cpu"),
    "rowwise": ({"rowwise": True}, r"rowwise: expected False .*cpu"),
    "lazy rows": ({"sparse_updates": "dense"}, r"sparse_updates: expected 'touched' .*cpu"),
    "differentiable": ({"differentiable": True}, r"differentiable: expected False"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_options_of_the_cpu_are_refused(case: str) -> None:
    options, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        asyncopt.Adam(params(), **options)


def test_what_needs_the_cpu_is_refused() -> None:
    table = Parameter(torch.ones(5, 2))
    optimizer = asyncopt.SGD([table], lr=0.1)
    with pytest.raises(ValueError, match=r"share_memory: .*torch\.multiprocessing\.spawn"):
        optimizer.share_memory()
    with pytest.raises(ValueError, match=r"step_rows: .*dense gradient"):
        optimizer.step_rows(table, torch.tensor([1]), torch.ones(1, 2))
    table.grad = torch.eye(5, 2).to_sparse(1)
    with pytest.raises(ValueError, match=r"params\[0\]\.grad: expected a dense gradient .*sparse="):
        optimizer.step()
    assert bool((table == 1).all())
