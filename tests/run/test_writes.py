"""Direct writes of workers to parameters are in the model after a run, as in plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import asyncopt
from asyncopt.run import launch

from .writing import LR, WAYS, table, train_alone, train_shared

REPLICAS = ("seqlock", "leashed")
STEPS = 7


def run_shared(model: nn.Module, sync: str, way: str, steps: int = STEPS, **options: Any) -> Any:
    optimizer = asyncopt.SGD(model.parameters(), lr=LR, sync=sync)
    options = {"workers": 1, "mode": "thread", "threads_per_worker": 1, **options}
    return launch(train_shared, (model, optimizer, way, steps), **options)


def assert_same(model: nn.Module, expected: nn.Module) -> None:
    for (name, param), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(param, other), name


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sync", REPLICAS)
def test_one_worker_writes_as_torch_does(sync: str, way: str) -> None:
    """Also what it wrote last, after its last step."""
    model, expected = table(), table()
    run = run_shared(model, sync, way)
    train_alone(expected, way, STEPS)
    assert_same(model, expected)
    assert run.ledger.pushes == STEPS
    assert run.ledger.staleness.mean == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sync", ["hogwild", "mutex", "striped", "seqlock"])
def test_one_worker_with_a_device(sync: str, way: str) -> None:
    """In parts and whole, into memory that others would write, and as a version."""
    if way in ("assign_data", "from_vector"):
        pytest.skip("memory on a device is refused where it is replaced: tests/devices")
    model, expected = table(), table()
    run_shared(model, sync, way, workers=None, devices=["cpu"])
    train_alone(expected, way, STEPS)
    assert_same(model, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize(
    ("sync", "options"),
    [
        ("seqlock", {"workers": 2}),
        ("leashed", {"workers": 2}),
        ("seqlock", {"workers": 2, "mode": "process"}),
        ("atomic", {"devices": ["cpu", "cpu"]}),
        ("leashed", {"devices": ["cpu", "cpu"], "lag": 1}),
    ],
)
def test_several_workers_keep_the_norm(sync: str, options: dict[str, Any], kind: Any) -> None:
    """The last step of each worker may leave a row again, by one step; 200 steps would by more."""
    model = table(kind)
    options = {"workers": None, **options}
    run_shared(model, sync, "max_norm", steps=200, **options)
    norms = next(model.parameters()).detach().norm(dim=1)
    assert norms.max() <= 1.5
    assert norms.max() > 0.5  # they are pushed outwards all the same
