"""Writes to a replica, step by step, beside pushes of another worker."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import thread_clone

from .jobs import params_of

SYNCS = ("seqlock", "leashed")


def two(sync: str, size: int = 4, **options: Any) -> tuple[Any, Tensor, Any, Tensor]:
    """Two workers of one store, and their parameters, which are zeros."""
    first = asyncopt.SGD([Parameter(torch.zeros(size))], lr=1.0, sync=sync, **options)
    first.share_memory(workers=9)
    second = thread_clone((first,))[0]
    return first, params_of(first)[0], second, params_of(second)[0]


def push(optimizer: Any, values: list[float]) -> None:
    """Adds values to what is in the store."""
    for param in params_of(optimizer):
        param.grad = -torch.tensor(values)
    optimizer.step()


def newest(other: Any) -> list[float]:
    """The store's parameters, pulled by a worker that has written nothing."""
    other.pull()
    values: list[float] = params_of(other)[0].tolist()
    return values


@pytest.mark.parametrize("sync", SYNCS)
def test_elements_that_were_not_written_keep_what_others_did(sync: str) -> None:
    """From the second write to a parameter on; the first is a write of all elements."""
    first, param, second, _ = two(sync)
    for number in (1.0, 2.0):
        push(second, [1.0, 1.0, 1.0, 1.0])
        with torch.no_grad():
            param[2] = 10.0
        push(first, [0.5, 0.5, 0.5, 0.5])
        others = [0.5, 2.0][int(number) - 1]
        assert newest(second) == [others, others, 10.5, others] == param.tolist()


@pytest.mark.parametrize("sync", SYNCS)
def test_pull_keeps_what_was_written(sync: str) -> None:
    """The next push writes it to the store; flush does so at once."""
    first, param, second, _ = two(sync)
    for number in range(2):
        with torch.no_grad():
            param[0] = 7.0 + number
        push(second, [1.0, 1.0, 1.0, 1.0])
        before = newest(second)
        first.pull()
        assert param[0] == 7.0 + number
        if number > 0:  # all elements of the first write are its own
            assert param.tolist()[1:] == before[1:]
        assert newest(second) == before
        version = first.store.version
        first.flush()
        assert newest(second) == param.tolist()
        assert first.store.version == version + 1
        first.flush()
        assert first.store.version == version + 1
    assert first.ledger().pushes == 2


@pytest.mark.parametrize("sync", SYNCS)
def test_own_versions_make_no_gradient_stale(sync: str) -> None:
    first, param, *_ = two(sync)
    for _ in range(3):
        with torch.no_grad():
            param.add_(1.0)
        first.flush()
        push(first, [0.0, 0.0, 0.0, 0.0])
    assert param.tolist() == [3.0] * 4
    assert first.ledger().staleness.mean == 0


@pytest.mark.parametrize("sync", SYNCS)
def test_a_skipped_push_keeps_what_was_written(sync: str) -> None:
    first, param, second, _ = two(sync)
    with torch.no_grad():
        param.fill_(3.0)
    with pytest.warns(RuntimeWarning, match="NaN or infinite"):
        push(first, [float("nan"), 0.0, 0.0, 0.0])
    assert param.tolist() == [3.0] * 4
    push(first, [1.0, 1.0, 1.0, 1.0])
    assert newest(second) == [4.0] * 4


@pytest.mark.parametrize("adaptive", [False, True])
def test_no_delay_is_seen_in_own_writes(adaptive: bool) -> None:
    """The gradient was computed at the written parameters."""
    strength = (0.5, 0.9) if adaptive else 0.5
    first, param, second, _ = two("seqlock", delay_compensation=strength)
    with torch.no_grad():
        param.fill_(3.0)
    push(first, [1.0, 1.0, 1.0, 1.0])
    assert newest(second) == [4.0] * 4
    assert second.ledger().staleness.mean == 0


@pytest.mark.parametrize("sync", SYNCS)
def test_memory_of_a_parameter_without_a_gradient(sync: str) -> None:
    """It may be replaced like that of any other, and is refreshed where it is now."""
    params = [Parameter(torch.zeros(1000)), Parameter(torch.zeros(4))]
    first = asyncopt.SGD(params, lr=1.0, sync=sync)
    first.share_memory(workers=9)
    second = thread_clone((first,))[0]
    other = params_of(second)
    params[0].data = torch.full((1000,), 2.0)
    params[1].grad = torch.ones(4)
    first.step()
    assert newest(second) == [2.0] * 1000
    other[0].grad = torch.ones(1000)
    other[1].grad = None
    second.step()
    first.step()
    assert params[0].tolist() == [1.0] * 1000


@pytest.mark.parametrize("sync", SYNCS)
def test_a_plan_that_is_made_anew_still_finds_what_was_written(sync: str) -> None:
    first, param, second, _ = two(sync)
    with torch.no_grad():
        param.fill_(3.0)
    first.stepper.make_plan()
    push(first, [1.0, 1.0, 1.0, 1.0])
    assert newest(second) == [4.0] * 4


@pytest.mark.parametrize("sync", SYNCS)
def test_writes_of_the_process_that_shares(sync: str) -> None:
    """They are in the parameters that it takes back, and in those of new workers."""
    first, param, *_ = two(sync)
    with torch.no_grad():
        param.fill_(3.0)
    third = thread_clone((first,))[0]
    assert params_of(third)[0].tolist() == [3.0] * 4
    with torch.no_grad():
        param.fill_(5.0)
    first.state_dict()
    assert param.tolist() == [5.0] * 4


@pytest.mark.parametrize("sync", SYNCS)
def test_unshare_keeps_what_was_written(sync: str) -> None:
    param = Parameter(torch.zeros(4))
    optimizer = asyncopt.SGD([param], lr=1.0, sync=sync)
    optimizer.share_memory(workers=9)
    with torch.no_grad():
        param.fill_(3.0)
    optimizer.unshare()
    assert param.tolist() == [3.0] * 4


def test_autograd_refuses_values_that_a_pull_has_replaced() -> None:
    """A parameter without a gradient is refreshed by the step as well."""
    params = [Parameter(torch.ones(2)), Parameter(torch.ones(2))]
    optimizer = asyncopt.SGD(params, lr=1.0, sync="seqlock")
    optimizer.share_memory(workers=9)
    loss = params[0].square().sum()
    params[1].grad = torch.ones(2)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elements_of_every_size(dtype: torch.dtype, sync: str) -> None:
    """Transposed and odd in number, too."""
    param = Parameter(torch.zeros(5, 3, dtype=dtype).t())
    optimizer = asyncopt.SGD([param], lr=1.0, sync=sync)
    optimizer.share_memory(workers=9)
    expected: Tensor = torch.zeros(3, 5, dtype=dtype)
    for number in range(1, 5):
        with torch.no_grad():
            param[number % 3, number] = number
            expected[number % 3, number] = number
        param.grad = torch.zeros_like(param)
        optimizer.step()
        assert torch.equal(param, expected)
        assert torch.equal(params_of(thread_clone((optimizer,))[0])[0], expected)
