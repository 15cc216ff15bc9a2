"""Input that is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.devices import check_devices

from . import models


def launch(**options: Any) -> None:
    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    asyncopt.launch(models.fit, (model, optimizer, *models.data()), **options)
    raise AssertionError("it was not refused")


MISSING = f"cuda:{torch.cuda.device_count() + 3}"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"devices": "cuda:0"}, TypeError, r"devices: expected a list .* got 'cuda:0'"),
        ({"devices": 2}, TypeError, r"devices: expected a list .* got 2"),
        ({"devices": []}, ValueError, r"devices: expected one device for each worker, got none"),
        ({"devices": ["cpu", 0]}, TypeError, r"devices\[1\]: expected .*, got 0"),
        ({"devices": ["gpu"]}, ValueError, r"devices\[0\]: expected 'cpu' or 'cuda:0', got 'gpu'"),
        ({"devices": ["meta"]}, ValueError, r"devices\[0\]: expected .*, got 'meta'"),
        ({"devices": ["cpu:1"]}, ValueError, r"devices\[0\]: expected 'cpu', .* got 'cpu:1'"),
        (
            {"devices": ["cpu", MISSING]},
            ValueError,
            rf"devices\[1\]: expected a device of this machine, .* got '{MISSING}'",
        ),
        (
            {"devices": ["cpu"], "workers": 2},
            ValueError,
            r"devices: expected one for each of 2 workers, got 1",
        ),
        ({"lag": 1}, ValueError, r"lag: expected devices= with it"),
        ({"devices": ["cpu"], "lag": 2}, ValueError, r"lag: expected 0 or 1, got 2"),
        ({"devices": ["cpu"], "lag": True}, ValueError, r"lag: expected 0 or 1, got True"),
        (
            {"devices": ["cpu"], "lag": 1, "max_staleness": 1},
            ValueError,
            r"lag: expected 0 with max_staleness=1",
        ),
    ],
)
def test_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        launch(**options)


def test_names_of_one_device() -> None:
    assert check_devices(["cpu", "cpu:0", torch.device("cpu")]) == (torch.device("cpu"),) * 3


def test_lazy_updates_stay_on_the_host() -> None:
    model = torch.nn.Embedding(10, 4, sparse=True)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1, momentum=0.9, sparse_updates="dense")
    with pytest.raises(ValueError, match="devices: expected optimizers with sparse_updates"):
        asyncopt.launch(models.fit, (model, optimizer, *models.data()), devices=["cpu"])
    assert optimizer.store is None


def step_rows(worker: Any, model: Any, optimizer: Any) -> None:
    weight = model[1].weight
    optimizer.step_rows(weight, torch.tensor([0]), torch.ones(1, weight.shape[1]))


def test_rows_are_not_stepped_by_themselves() -> None:
    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    with pytest.raises(asyncopt.WorkerError, match=r"step_rows: expected parameters in place"):
        asyncopt.launch(step_rows, (model, optimizer), devices=["cpu"], mode="thread")


def load(worker: Any, model: Any, optimizer: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def test_state_belongs_to_the_store() -> None:
    model = models.mlp()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1)
    with pytest.raises(asyncopt.WorkerError, match=r"load_state_dict: expected .* not shared"):
        asyncopt.launch(load, (model, optimizer), devices=["cpu"], mode="thread")


def out_of_range(worker: Any, table: Any, optimizer: Any) -> str:
    table.weight.grad = torch.sparse_coo_tensor(
        torch.tensor([[12]]), torch.ones(1, 4), (10, 4), check_invariants=False
    )
    try:
        optimizer.step()
    except ValueError as error:
        return str(error)
    return "it was not refused"


def test_rows_that_there_are_not() -> None:
    table = torch.nn.Embedding(10, 4, sparse=True)
    before = table.weight.detach().clone()
    optimizer = asyncopt.SGD(table.parameters(), lr=0.1)
    run = asyncopt.launch(out_of_range, (table, optimizer), devices=["cpu"], mode="thread")
    assert "params[0].grad: expected row indices in [0, 10), got 12" in run.results[0]
    assert torch.equal(table.weight, before)
    assert run.ledger.pushes == 0
