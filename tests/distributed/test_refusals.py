"""Input that is refused before any exchange or change, in a group of one rank."""

from __future__ import annotations

import copy
import functools
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed as dist
import torch.distributed.nn  # torch.optim imports it late; its defaults would keep a group alive
from torch.nn import Parameter

import asyncopt
from asyncopt.distributed import ElasticAveraging, LocalSteps

from .cases import NESTEROV


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def sgd(*params: torch.Tensor) -> torch.optim.Optimizer:
    return torch.optim.SGD(params or [Parameter(torch.ones(3))], lr=0.1)


def shared() -> torch.optim.Optimizer:
    optimizer = asyncopt.SGD([Parameter(torch.ones(3))], lr=0.1)
    optimizer.share_memory(workers=1)
    return optimizer


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no optimizer": (
        lambda: LocalSteps([], 2),  # type: ignore[arg-type]
        TypeError,
        "optimizer: expected a torch optimizer, got list",
    ),
    "nested": (
        lambda: LocalSteps(LocalSteps(sgd(), 2), 2),
        TypeError,
        "optimizer: expected a torch optimizer, got LocalSteps",
    ),
    "shared": (lambda: LocalSteps(shared(), 2), ValueError, "optimizer: expected one that is not"),
    "every": (lambda: LocalSteps(sgd(), 0), ValueError, "every: expected a number of steps >= 1"),
    "overlap too long": (
        lambda: LocalSteps(sgd(), 2, overlap=3),
        ValueError,
        "overlap: expected a number of steps from 0 to every=2, got 3",
    ),
    "overlap no number": (
        lambda: ElasticAveraging(sgd(), 2, overlap=True),
        ValueError,
        "overlap: expected a number of steps from 0 to every=2, got True",
    ),
    "alpha": (
        lambda: ElasticAveraging(sgd(), 2, alpha=1.5),
        ValueError,
        "alpha: expected a number in (0, 1 / 1 ranks] or None, got 1.5",
    ),
    "alpha no number": (
        lambda: ElasticAveraging(sgd(), 2, alpha=cast("float", "0.5")),
        ValueError,
        "alpha: expected a number in (0, 1 / 1 ranks] or None, got '0.5'",
    ),
    "outer no function": (
        lambda: LocalSteps(sgd(), 2, cast("Any", sgd())),
        TypeError,
        "outer: expected a function of a list of tensors",
    ),
    "outer": (
        lambda: LocalSteps(sgd(), 2, lambda center: sgd()),
        TypeError,
        "outer: expected a function of a list of tensors",
    ),
    "complex": (
        lambda: LocalSteps(sgd(Parameter(torch.ones(3, dtype=torch.complex64))), 2),
        ValueError,
        "params[0]: expected a dense tensor of float16, bfloat16, float32 or float64, got torch.c",
    ),
    "device": (
        lambda: LocalSteps(sgd(Parameter(torch.ones(3, device="meta"))), 2),
        ValueError,
        "params[0]: expected a device of the process group, ",
    ),
    "buffers": (
        lambda: LocalSteps(sgd(), 2, buffers=["a"]),  # type: ignore[list-item]
        TypeError,
        "buffers[0]: expected a tensor, got str",
    ),
    "buffers of a module": (
        lambda: LocalSteps(sgd(), 2, buffers=torch.nn.BatchNorm1d(2)),  # type: ignore[arg-type]
        TypeError,
        "buffers: expected tensors, got a module, BatchNorm1d; pass it as model=, or its",
    ),
    "model": (
        lambda: LocalSteps(sgd(), 2, model=[Parameter(torch.ones(3))]),  # type: ignore[arg-type]
        TypeError,
        "model: expected a module or None, got list",
    ),
    "no group": (
        lambda: LocalSteps(sgd(), 2, group="gloo"),
        TypeError,
        "group: expected a process group or None, got str",
    ),
    "group of others": (
        lambda: LocalSteps(sgd(), 2, group=dist.GroupMember.NON_GROUP_MEMBER),
        ValueError,
        "group: expected one that this rank is in",
    ),
    "a further group of parameters": (
        lambda: LocalSteps(sgd(), 2).add_param_group({"params": []}),
        RuntimeError,
        "add_param_group: expected all groups at the start",
    ),
    "a copy": (
        lambda: copy.deepcopy(LocalSteps(sgd(), 2)),
        TypeError,
        "LocalSteps: expected to stay in the process that made it",
    ),
    "a pickle": (
        lambda: pickle.dumps(ElasticAveraging(sgd(), 2)),
        TypeError,
        "ElasticAveraging: expected to stay in the process that made it",
    ),
}


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, error, message = REFUSED[name]
    with pytest.raises(error, match="^" + re.escape(message)):
        make()


def test_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match=r"^group: expected a process group, got none; call"):
        LocalSteps(sgd(), 2)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("make", [functools.partial(LocalSteps, outer=NESTEROV), ElasticAveraging])
def test_a_state_dict_of_another_model(make: Any) -> None:
    saved = make(sgd(Parameter(torch.ones(4))), every=2).state_dict()
    weight = Parameter(torch.ones(3))
    optimizer = make(sgd(weight), every=2)
    before = optimizer.state_dict()
    with pytest.raises(
        ValueError, match=r"^state_dict: expected 'center' with \(dtype, elements\)"
    ):
        optimizer.load_state_dict(saved)
    assert str(optimizer.state_dict()) == str(before)


@pytest.mark.usefixtures("alone")
def test_as_a_torch_optimizer() -> None:
    """Schedulers reach the local optimizer; its state dict alone can be loaded; nothing to do is
    nothing done."""
    local = torch.optim.SGD([Parameter(torch.ones(3)), Parameter(torch.ones(0))], lr=1.0)
    optimizer = LocalSteps(local, 2, buffers=[torch.tensor(3)])
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.pull()
    for _ in range(3):
        (local.param_groups[0]["params"][0] * 1.0).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    assert local.param_groups[0]["lr"] == 0.125
    assert local.param_groups[0]["params"][0].tolist() == [1 - 1 - 0.5 - 0.25] * 3
    other = LocalSteps(sgd(*local.param_groups[0]["params"]), 2)
    other.load_state_dict(local.state_dict())
    assert other.param_groups[0]["lr"] == 0.125
