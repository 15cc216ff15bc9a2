"""`unshare`: optimizers are private again, can be changed, and shared again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.testing import assert_close

import asyncopt
from asyncopt.optim import thread_clone

from .looks import IN_PLACE, REPLICAS, SYNCS, descriptors, mappings, params_of, shared, step

every_sync = pytest.mark.parametrize("sync", SYNCS)
every_rule = pytest.mark.parametrize("rule", asyncopt.rules())


def torchs(rule: str, params: list[Any]) -> Any:
    return getattr(torch.optim, rule)([Parameter(p.detach().clone()) for p in params], lr=0.1)


def assert_same_params(ours: Any, theirs: Any) -> None:
    for mine, truth in zip(params_of(ours), params_of(theirs), strict=True):
        assert_close(mine, truth)


@every_sync
@every_rule
def test_training_goes_on_in_private_memory(rule: str, sync: str) -> None:
    """Parameters and state are those of the store, and equal torch's before and after."""
    before = descriptors(), mappings()
    optimizer = shared(sync, rule)
    expected = torchs(rule, [torch.linspace(-1, 1, 21), torch.ones(5, 3)])
    step(expected, 3)
    assert optimizer.unshare() is optimizer
    assert optimizer.store is None
    assert (descriptors(), mappings()) == before
    assert_same_params(optimizer, expected)
    step(optimizer, 3, first=3)
    step(expected, 3, first=3)
    assert_same_params(optimizer, expected)
    assert not any(param.is_shared() for param in params_of(optimizer))
    optimizer.unshare()  # alone already


@pytest.mark.parametrize("sync", REPLICAS)
def test_a_replica_gets_the_newest_version_first(sync: str) -> None:
    optimizer = shared(sync)
    (other,) = thread_clone((optimizer,))
    step(other, 2, first=3)
    del other
    expected = torchs("Adam", [torch.linspace(-1, 1, 21), torch.ones(5, 3)])
    step(expected, 5)
    optimizer.unshare()
    assert_same_params(optimizer, expected)
    step(optimizer, 1, first=5)
    step(expected, 1, first=5)
    assert_same_params(optimizer, expected)


@every_sync
def test_everything_can_be_changed_afterwards(sync: str) -> None:
    """Another dtype, another group, another sync, loaded state, more workers."""
    model = nn.Linear(3, 2)
    optimizer: Any = asyncopt.Adam(model.parameters(), lr=0.1, sync=sync).share_memory(workers=1)
    step(optimizer, 2)
    optimizer.unshare()
    model.double()
    optimizer.add_param_group({"params": [Parameter(torch.ones(4, dtype=torch.float64))]})
    optimizer.sync = "mutex" if sync != "mutex" else "leashed"
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.share_memory(workers=5)
    assert optimizer.store.sync == optimizer.sync
    assert optimizer.store.segment.workers == 6
    step(optimizer, 1)
    assert optimizer.store.version == 1


def test_a_changed_sync_is_checked_when_it_is_shared_again() -> None:
    optimizer = shared("hogwild", audit=True).unshare()
    optimizer.sync = "mutex"
    with pytest.raises(ValueError, match="audit: expected sync='hogwild'"):
        optimizer.share_memory(workers=1)
    with pytest.raises(ValueError, match=r"sync: expected one of .*; got 'nonsense'"):
        optimizer.sync = "nonsense"
    assert (optimizer.store, optimizer.sync) == (None, "mutex")
    step(optimizer, 1)


@every_sync
def test_the_sync_of_a_store_cannot_be_changed(sync: str) -> None:
    optimizer = shared(sync)
    optimizer.sync = sync
    other = "mutex" if sync != "mutex" else "seqlock"
    with pytest.raises(RuntimeError, match=rf"sync: expected '{sync}', .* got '{other}'; call uns"):
        optimizer.sync = other
    assert optimizer.sync == optimizer.store.sync == sync
    step(optimizer, 1)


@pytest.mark.parametrize("sync", IN_PLACE)
def test_rows_keep_the_updates_that_they_miss(sync: str) -> None:
    table = nn.Embedding(6, 2, sparse=True)
    expected = copy.deepcopy(table)
    expected.sparse = False
    ours: Any = asyncopt.SGD(
        table.parameters(), lr=0.1, momentum=0.9, sync=sync, sparse_updates="dense"
    )
    theirs = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    for steps in range(9):
        if steps == 3:
            ours.share_memory(workers=1)
        if steps == 6:
            ours.unshare()
        for module, optimizer in ((table, ours), (expected, theirs)):
            optimizer.zero_grad()
            rows = torch.tensor([steps % 4, 2])
            if module is table:
                ours.catch_up(table.weight, rows)
            module(rows).square().sum().backward()
            optimizer.step()
    ours.catch_up()
    assert_close(table.weight, expected.weight)


def test_only_the_last_worker_may_leave_with_the_store() -> None:
    optimizer = shared(workers=3)
    (other,) = thread_clone((optimizer,))
    kept = [param.detach().clone() for param in params_of(optimizer)]
    with pytest.raises(RuntimeError, match=r"unshare: expected the process .* got worker slot 1"):
        other.unshare()
    with pytest.raises(
        RuntimeError, match=r"unshare: expected no other workers .* got 1 \(slots 1"
    ):
        optimizer.unshare()
    assert optimizer.store is not None
    for mine, value in zip(params_of(optimizer), kept, strict=True):
        assert torch.equal(mine, value)
    step(other, 1)
    del other
    optimizer.unshare()


def test_copies_that_were_dropped_do_not_stand_in_the_way() -> None:
    """Also those that only the garbage collector finds."""
    optimizer = shared(workers=2)
    (other,) = thread_clone((optimizer,))
    other.itself = other
    del other
    assert optimizer.unshare().store is None


# --- launch shares again by itself ----------------------------------------------------------------


def push_ones(worker: asyncopt.Worker, model: nn.Module, optimizer: Any, times: int) -> list[float]:
    """Pushes gradients of ones; returns the weights that it began with."""
    found = [float(x) for param in model.parameters() for x in param.detach().flatten()]
    worker.barrier()
    for _ in range(times):
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        optimizer.step()
    return found


def model_and_optimizer(sync: str, **options: Any) -> tuple[nn.Linear, Any]:
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    return model, asyncopt.SGD(model.parameters(), lr=1.0, sync=sync, **options)


LOSSLESS = [sync for sync in SYNCS if sync != "hogwild"]


@pytest.mark.slow
@pytest.mark.parametrize("sync", LOSSLESS)
def test_more_workers_than_before(sync: str) -> None:
    model, optimizer = model_and_optimizer(sync, momentum=0.0)
    for workers, pushes in ((1, 5), (3, 20), (2, 30)):
        asyncopt.launch(push_ones, (model, optimizer, 5), workers, timeout=120)
        assert optimizer.store.version == pushes  # the global step of schedules goes on
        assert all(torch.equal(p, torch.full_like(p, -pushes)) for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_weights_loaded_between_runs_are_what_workers_begin_with(mode: str, sync: str) -> None:
    model, optimizer = model_and_optimizer(sync)
    asyncopt.launch(push_ones, (model, optimizer, 3), 1, mode=mode, timeout=120)
    model.load_state_dict({"weight": torch.tensor([[7.0, 8.0]]), "bias": torch.tensor([9.0])})
    run = asyncopt.launch(push_ones, (model, optimizer, 3), 1, mode=mode, timeout=120)
    assert run.results == [[7.0, 8.0, 9.0]]
    assert torch.equal(model.weight, torch.tensor([[4.0, 5.0]]))
    assert optimizer.store.version == 6


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
def test_replaced_tensors_are_trained(sync: str) -> None:
    """double().float() leaves the same dtype and shape in other memory."""
    model, optimizer = model_and_optimizer(sync)
    asyncopt.launch(push_ones, (model, optimizer, 3), 1, timeout=120)
    model.double().float()
    asyncopt.launch(push_ones, (model, optimizer, 3), 1, timeout=120)
    assert torch.equal(model.weight, torch.full((1, 2), -6.0))
    model.double()
    run = asyncopt.launch(push_ones, (model, optimizer, 3), 1, timeout=120)
    assert run.results == [[-6.0, -6.0, -6.0]]
    assert torch.equal(model.weight, torch.full((1, 2), -9.0, dtype=torch.float64))


@pytest.mark.parametrize("sync", IN_PLACE)
def test_a_step_on_replaced_tensors_names_the_remedy(sync: str) -> None:
    model, optimizer = model_and_optimizer(sync)
    optimizer.share_memory(workers=1)
    model.double().float()
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    with pytest.raises(
        ValueError, match=r"params\[0\]: expected .* in other memory .* unshare\(\)"
    ):
        optimizer.step()
    optimizer.unshare()
    optimizer.step()
    assert torch.equal(model.weight, torch.full((1, 2), -1.0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["LocalSteps", "ElasticAveraging"])
def test_averaging_methods_share_again(method: str) -> None:
    model = nn.Linear(2, 1)
    local = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer: Any = getattr(asyncopt, method)(local, every=1)
    asyncopt.launch(push_ones, (model, optimizer, 2), 1, timeout=120)
    loaded = {"weight": torch.tensor([[7.0, 8.0]]), "bias": torch.tensor([9.0])}
    model.load_state_dict(loaded)
    run = asyncopt.launch(push_ones, (model, optimizer, 2), 3, timeout=120)
    assert run.results == [[7.0, 8.0, 9.0]] * 3
    last = 0 if method == "LocalSteps" else 1  # a worker's end is an exchange, too
    assert optimizer.store.version == (2 + last) + 3 * (2 + last)
    center = model.weight.detach().clone()
    assert optimizer.unshare().store is None
    assert torch.equal(model.weight, center)
    assert not torch.equal(center, loaded["weight"])


@pytest.mark.parametrize("sync", REPLICAS)
def test_written_here_and_trained_elsewhere_is_refused(sync: str) -> None:
    """Neither the loaded weights nor the others' training may be dropped silently."""
    model, optimizer = model_and_optimizer(sync)
    optimizer.share_memory(workers=2)
    (other_model, other) = thread_clone((model, optimizer))
    for param in other_model.parameters():
        param.grad = torch.ones_like(param)
    other.step()
    del other, other_model
    nn.init.ones_(model.weight)
    with pytest.raises(
        ValueError, match=r"params\[0\] of optimizer 0: .* its store has newer ones"
    ):
        asyncopt.launch(push_ones, (model, optimizer, 1), 1)
    assert torch.equal(model.weight, torch.ones(1, 2))
    optimizer.pull()
    asyncopt.launch(push_ones, (model, optimizer, 1), 1, timeout=120)
    assert torch.equal(model.weight, torch.zeros(1, 2))
    assert torch.equal(model.bias, torch.full((1,), -2.0))
