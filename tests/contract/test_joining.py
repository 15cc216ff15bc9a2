"""Optimizers sent to other workers: plain spawned processes, and threads."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.nn import Parameter
from torch.testing import assert_close

import asyncopt
from asyncopt.optim import thread_clone

from .cases import CASES, REPLICAS, SYNCS, params_of, train
from .jobs import train_without_launch


@pytest.fixture
def no_tracker() -> Iterator[None]:
    """Ends the helper process that Python's own spawn starts."""
    yield
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("no_tracker")
def test_plain_process() -> None:
    """(model, optimizer) and optimizers alone, in a torch.multiprocessing Process, share stores."""
    model = nn.Linear(3, 2)
    for p in model.parameters():
        p.data.zero_()
    tied = asyncopt.SGD(model.parameters(), lr=1.0, sync="atomic").share_memory(workers=1)
    others = [
        asyncopt.SGD([Parameter(torch.zeros(17))], lr=1.0, momentum=0.5, sync=sync)
        for sync in SYNCS
    ]
    for optimizer in others:
        optimizer.share_memory(workers=1)
    args = (model, tied, others)
    process = mp.get_context("spawn").Process(target=train_without_launch, args=args)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    process.close()
    assert bool((model.weight == 2).all())
    assert tied.ledger().pushes == 2
    for optimizer in others:
        optimizer.pull()
        (param,) = params_of(optimizer)
        assert bool((param == 2.5).all()), optimizer.sync  # 1 + 1.5
        assert bool((optimizer.state[param]["momentum_buffer"] == -1.5).all())
        assert [(w.slot, w.pushes) for w in optimizer.ledger().workers] == [(1, 2)]
        thread_clone((optimizer,))  # the dead process's slot can be had again


class Net(nn.Module):
    """A model with tied parameters and a buffer."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.last = nn.Linear(4, 1)
        self.register_buffer("count", torch.zeros(1))


@pytest.mark.parametrize("sync", SYNCS)
def test_thread_clone(sync: str) -> None:
    """Own Parameters with own gradients over the same memory; a copy of it for a replica."""
    model = Net()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync=sync).share_memory(workers=1)
    note = object()
    args = ([model], {"opt": optimizer}, note, 3)
    [twin], others, same, number = thread_clone(args)
    other = others["opt"]
    assert same is note
    assert number == 3
    assert type(other) is type(optimizer)
    assert other.store is optimizer.store
    assert twin.count is model.count
    assert twin.second.weight is twin.first.weight
    assert [id(p) for p in twin.parameters()] == [id(p) for p in params_of(other)]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert p is not q
        assert torch.equal(p, q)
        assert (p.data_ptr() == q.data_ptr()) == (sync not in REPLICAS)
    before = model.last.bias.detach().clone()
    twin.last.bias.sum().backward()
    assert model.last.bias.grad is None
    other.step()
    optimizer.pull()
    for each in (model, twin):
        assert_close(each.last.bias.detach(), before - 1)


@pytest.mark.parametrize("sync", SYNCS)
def test_state_of_a_clone_takes_new_entries(sync: str) -> None:
    """As in torch, `optimizer.state[p]` of a parameter without state is an empty dict."""
    optimizer: Any = asyncopt.SGD([Parameter(torch.zeros(3))], sync=sync).share_memory(workers=1)
    (other,) = thread_clone((optimizer,))
    for each in (optimizer, other):
        assert each.state[params_of(each)[0]] == {}


@pytest.mark.parametrize("sync", SYNCS)
def test_workers_in_turn_equal_one_worker(sync: str) -> None:
    """Steps of two workers, one after the other, are the steps of one: every rule."""
    for case in CASES:
        alone = case.ours([Parameter(torch.ones(20))])
        optimizer = case.ours([Parameter(torch.ones(20))], sync=sync).share_memory(workers=1)
        (other,) = thread_clone((optimizer,))
        for turn in range(6):
            train(alone, torch.float32, steps=1)
            train(optimizer if turn % 2 else other, torch.float32, steps=1)
        expected = alone.state.get(params_of(alone)[0], {})
        for each in (optimizer, other):
            each.pull()
            assert_close(params_of(each), params_of(alone), msg=str(case))
            mine = each.state.get(params_of(each)[0], {})
            assert mine.keys() == expected.keys(), str(case)
            for name, value in expected.items():
                assert_close(mine[name], value, msg=f"{case}: {name}")


def test_all_slots_taken() -> None:
    """One worker too many: the error names the remedy."""
    optimizer: Any = asyncopt.SGD([Parameter(torch.zeros(3))]).share_memory(workers=2)
    clones = [thread_clone((optimizer,)) for _ in range(2)]
    with pytest.raises(asyncopt.SegmentError, match=r"workers: all 3 .* larger workers="):
        thread_clone((optimizer,))
    clones.pop()
    thread_clone((optimizer,))  # a slot that was given back
