"""A shared tensor's storage is exactly its own bytes when saved, copied or sent."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import thread_clone

from .looks import IN_PLACE, SYNCS, params_of, shared, step

every_sync = pytest.mark.parametrize("sync", SYNCS)

OVERHEAD = 6_000  # bytes that a format may need for names and shapes


def torch_saved(obj: Any) -> bytes:
    torch.save(obj, file := io.BytesIO())
    return file.getvalue()


def joblib_dumped(obj: Any) -> bytes:
    joblib.dump(obj, file := io.BytesIO())
    return file.getvalue()


FORMATS: dict[str, Callable[[nn.Module], bytes]] = {
    "torch.save": lambda model: torch_saved(model.state_dict()),
    "torch.save of the model": torch_saved,
    "pickle": pickle.dumps,
    "joblib": joblib_dumped,
    "safetensors": lambda model: safetensors.torch.save(model.state_dict()),
}


def model_of(sync: str) -> tuple[nn.Module, Any]:
    """A shared model of 20,700 parameters, trained by one step of Adam."""
    model = nn.Sequential(nn.Linear(100, 200), nn.Linear(200, 2), nn.Linear(2, 32))
    optimizer: Any = asyncopt.Adam(model.parameters(), lr=0.1, sync=sync).share_memory(workers=1)
    model(torch.ones(5, 100)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("form", FORMATS)
@every_sync
def test_a_saved_model_holds_its_parameters_and_nothing_else(sync: str, form: str) -> None:
    """No state, locks or ledger, and each parameter once."""
    model, optimizer = model_of(sync)
    nbytes = sum(param.nbytes for param in model.parameters())
    data = FORMATS[form](model)
    assert nbytes < len(data) < nbytes + OVERHEAD
    state = optimizer.state_dict()["state"][0]
    assert model[0].weight.detach().numpy().tobytes()[:400] in data  # type: ignore[index]
    for name in ("exp_avg", "exp_avg_sq"):
        assert state[name].numpy().tobytes()[:400] not in data


@every_sync
def test_a_saved_optimizer_holds_parameters_and_state_once(sync: str) -> None:
    params = [Parameter(torch.zeros(500)) for _ in range(20)]
    optimizer: Any = asyncopt.Adam(params, sync=sync)
    step(optimizer, 1)
    alone = len(torch_saved(optimizer))
    optimizer.share_memory(workers=1)
    assert len(torch_saved(optimizer)) < alone + OVERHEAD


@every_sync
def test_a_small_tensor_is_cheap_to_copy_and_save(sync: str) -> None:
    model, _ = model_of(sync)
    bias = model.get_submodule("1").bias
    assert isinstance(bias, Parameter)
    for alias in (bias, bias.data, bias.detach()):
        assert len(pickle.dumps(alias)) < 2_000
        twin = copy.deepcopy(alias)
        assert torch.equal(twin, alias)
        assert twin.data_ptr() != alias.data_ptr()
        assert twin.untyped_storage().nbytes() == bias.nbytes
        assert not twin.is_shared()
    assert bias.untyped_storage().nbytes() == bias.nbytes


@pytest.mark.parametrize("sync", IN_PLACE)
def test_a_storage_pickles_by_value(sync: str) -> None:
    model, _ = model_of(sync)
    bias = model.get_submodule("1").bias
    assert isinstance(bias, Parameter)
    copied = pickle.loads(pickle.dumps(bias.untyped_storage()))
    assert torch.equal(torch.empty(0).set_(copied), bias.detach())


@pytest.mark.parametrize("sync", IN_PLACE)
def test_share_memory_of_the_model_leaves_it_in_the_store(sync: str) -> None:
    """Scripts for Hogwild call it; torch's own would move the parameters to other memory."""
    model, optimizer = model_of(sync)
    before = [param.data_ptr() for param in model.parameters()]
    assert all(param.is_shared() for param in model.parameters())
    model.share_memory()
    assert [param.data_ptr() for param in model.parameters()] == before
    model(torch.ones(5, 100)).sum().backward()
    optimizer.step()
    (other,) = thread_clone((optimizer,))
    for mine, theirs in zip(model.parameters(), params_of(other), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("sync", IN_PLACE)
def test_tensors_outlive_their_optimizer(sync: str) -> None:
    """The memory goes with the last tensor in it."""
    optimizer = shared(sync)
    first = params_of(optimizer)[0].detach()
    expected = first.clone()
    del optimizer
    assert torch.equal(first, expected)


def empty_and_odd(sync: str) -> tuple[list[Parameter], Any]:
    params = [
        Parameter(torch.zeros(0, 3)),
        Parameter(torch.tensor(2.0)),
        Parameter(torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)),
        Parameter(torch.ones(3, dtype=torch.bfloat16)),
    ]
    optimizer: Any = asyncopt.SGD(params, lr=0.5, sync=sync).share_memory(workers=1)
    return params, optimizer


@every_sync
def test_every_shape_keeps_values_and_strides(sync: str) -> None:
    plain = [param.detach().clone() for param in empty_and_odd("hogwild")[0]]
    params, optimizer = empty_and_odd(sync)
    for param, value in zip(params, plain, strict=True):
        assert torch.equal(param, value)
        assert param.stride() == value.stride()
        param.grad = torch.ones_like(param)
    optimizer.step()
    for param, value in zip(params, plain, strict=True):
        assert torch.equal(param, value - 0.5)
