"""Copies of a shared optimizer are private; state dicts are right; loading goes into the store."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from torch.testing import assert_close

import asyncopt
from asyncopt.optim import thread_clone

from .looks import IN_PLACE, REPLICAS, SYNCS, data_of, params_of, shared, step

RULES = asyncopt.rules()


def save(obj: Any) -> Any:
    """Through a file."""
    file = io.BytesIO()
    torch.save(obj, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda obj: pickle.loads(pickle.dumps(obj)),
    "torch.save": save,
}

every_sync = pytest.mark.parametrize("sync", SYNCS)
every_rule = pytest.mark.parametrize("rule", RULES)
every_way = pytest.mark.parametrize("way", WAYS)


def torch_after(rule: str, steps: int) -> Any:
    """torch's optimizer after the steps that `shared` takes."""
    params = [Parameter(torch.linspace(-1, 1, 21)), Parameter(torch.ones(5, 3))]
    optimizer = getattr(torch.optim, rule)(params, lr=0.1)
    step(optimizer, steps)
    return optimizer


def assert_same(actual: Any, expected: Any) -> None:
    """Two state dicts agree, with the words of torch."""
    assert actual["param_groups"] == expected["param_groups"]
    for index, entries in expected["state"].items():
        for name, value in entries.items():
            if torch.is_tensor(value):
                mine = actual["state"][index][name]
                assert_close(mine, value, rtol=1e-5, atol=1e-6, check_dtype=False, msg=name)


@every_way
@every_sync
@every_rule
def test_a_copy_is_private(rule: str, sync: str, way: str) -> None:
    """Values are those of the store; training one of the two leaves the other as it is."""
    optimizer = shared(sync, rule)
    twin = WAYS[way](optimizer)
    assert twin.store is None
    assert twin.sync == sync
    before = data_of(optimizer)
    kept = copy.deepcopy(twin.state_dict())
    for mine, own in zip(params_of(optimizer), params_of(twin), strict=True):
        assert torch.equal(mine, own)
        assert mine.data_ptr() != own.data_ptr()
    step(twin, 2, first=3)
    assert data_of(optimizer) == before
    assert optimizer.store.version == 3
    trained = [p.detach().clone() for p in params_of(twin)]
    step(optimizer, 2, first=3)
    for mine, own, value in zip(params_of(optimizer), params_of(twin), trained, strict=True):
        assert torch.equal(own, value)
        assert_close(mine, own)
    assert_same(optimizer.state_dict(), twin.state_dict())
    fresh = getattr(asyncopt, rule)([p.detach().clone() for p in params_of(twin)], lr=0.1)
    fresh.load_state_dict(kept)  # the copy's state of then, untouched by what came after
    expected = torch_after(rule, 3).state_dict()
    assert_same(fresh.state_dict(), expected)


@every_way
@pytest.mark.parametrize("sync", SYNCS)
def test_a_copy_of_model_and_optimizer_stays_tied(sync: str, way: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = asyncopt.Adam(model.parameters(), lr=0.1, sync=sync).share_memory(workers=1)
    step(optimizer, 2)
    model2, optimizer2 = WAYS[way]((model, optimizer))
    assert [id(p) for p in model2.parameters()] == [id(p) for p in params_of(optimizer2)]
    kept = model.weight.detach().clone()
    step(optimizer2, 1)
    assert torch.equal(model.weight, kept)
    assert not torch.equal(model2.weight, kept)


@every_sync
def test_a_copy_can_be_shared_again(sync: str) -> None:
    optimizer = shared(sync)
    twin = copy.deepcopy(optimizer)
    twin.share_memory(workers=2)
    assert twin.store is not optimizer.store
    step(twin, 1, first=3)
    assert (optimizer.store.version, twin.store.version) == (3, 1)
    step(optimizer, 1, first=3)
    assert_same(twin.state_dict(), optimizer.state_dict())


@every_sync
def test_a_copy_of_a_replica_has_the_newest_version(sync: str) -> None:
    """Also where the original has not pulled it yet."""
    optimizer = shared(sync)
    (other,) = thread_clone((optimizer,))
    step(other, 2, first=3)
    twin = copy.deepcopy(optimizer)
    expected = torch_after("Adam", 5)
    assert_same(twin.state_dict(), expected.state_dict())
    for mine, truth in zip(params_of(twin), params_of(expected), strict=True):
        assert_close(mine, truth)


@every_sync
def test_users_own_state_entries_stay(sync: str) -> None:
    """Other entries of `state` are the user's; they stay when shared and when private again."""
    optimizer = asyncopt.Adam([param := Parameter(torch.ones(3))], lr=0.1, sync=sync)
    step(optimizer, 1)
    optimizer.state[param]["note"] = "mine"
    optimizer.share_memory(workers=1)
    step(optimizer, 1, first=1)
    assert optimizer.state[param]["note"] == "mine"
    optimizer.unshare()
    assert optimizer.state[param]["note"] == "mine"
    step(optimizer, 1, first=2)
    expected = torch.optim.Adam([truth := Parameter(torch.ones(3))], lr=0.1)
    step(expected, 3)
    assert_close(param, truth)


@every_sync
@every_rule
def test_state_dict_equals_torchs(rule: str, sync: str) -> None:
    """Under every sync, and for every worker of the store."""
    optimizer = shared(sync, rule)
    expected = torch_after(rule, 3)
    assert_same(optimizer.state_dict(), expected.state_dict())
    (other,) = thread_clone((optimizer,))
    step(optimizer, 2, first=3)
    expected = torch_after(rule, 5)
    for worker in (other, optimizer):
        assert_same(worker.state_dict(), expected.state_dict())
        for mine, truth in zip(params_of(worker), params_of(expected), strict=True):
            assert_close(mine, truth)
    back = getattr(torch.optim, rule)([p.detach().clone() for p in params_of(optimizer)])
    back.load_state_dict(copy.deepcopy(other.state_dict()))
    step(back, 1, first=5)
    step(optimizer, 1, first=5)
    for mine, truth in zip(params_of(optimizer), params_of(back), strict=True):
        assert_close(mine, truth)


@every_sync
@every_rule
def test_state_dict_can_be_saved(rule: str, sync: str) -> None:
    """By torch.save, as any checkpoint is; the file holds tensors, and loads without our code."""
    optimizer = shared(sync, rule)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    assert len(file.getvalue()) < optimizer.store.nbytes
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert_same(loaded, torch_after(rule, 3).state_dict())


@every_sync
def test_a_saved_state_dict_stays_what_it_was(sync: str) -> None:
    """Of a replica: a snapshot, which later steps of the others do not change."""
    optimizer = shared(sync)
    (other,) = thread_clone((optimizer,))
    expected = torch_after("Adam", 3).state_dict()
    kept = copy.deepcopy(optimizer.state_dict())
    step(other, 2, first=3)
    assert_same(kept, expected)


@pytest.mark.parametrize("sync", IN_PLACE)
@every_rule
def test_load_state_dict_goes_into_the_store(rule: str, sync: str) -> None:
    """Every worker goes on from the loaded state."""
    source = torch_after(rule, 4)
    optimizer = shared(sync, rule)
    (other,) = thread_clone((optimizer,))
    memory = optimizer.store.memory
    optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
    for p in params_of(optimizer):
        for value in optimizer.state.get(p, {}).values():
            assert memory.data_ptr() <= value.data_ptr() < memory.data_ptr() + len(memory)
    with torch.no_grad():
        for mine, truth in zip(params_of(optimizer), params_of(source), strict=True):
            mine.copy_(truth)
    assert_same(other.state_dict(), source.state_dict())
    step(source, 2, first=4)
    step(optimizer, 1, first=4)
    step(other, 1, first=5)
    for worker in (optimizer, other):
        for mine, truth in zip(params_of(worker), params_of(source), strict=True):
            assert_close(mine, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sync", REPLICAS)
def test_load_state_dict_into_a_replica_is_refused(sync: str) -> None:
    optimizer = shared(sync)
    before = data_of(optimizer)
    with pytest.raises(RuntimeError, match=r"load_state_dict.*or call unshare"):
        optimizer.load_state_dict(torch_after("Adam", 4).state_dict())
    assert data_of(optimizer) == before
    step(optimizer, 1)


def test_thread_clone_takes_a_tuple() -> None:
    wrong: Any = shared()
    with pytest.raises(TypeError, match=r"^objs: expected a tuple, got Adam; .* \(object,\)"):
        thread_clone(wrong)
