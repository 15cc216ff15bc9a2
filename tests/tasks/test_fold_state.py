"""Folds do not see changes that other folds make to the arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from . import stateful
from .reference import make_data, validate

FOLDS = [(range(0, 100, 2), range(k, 100, 4)) for k in (1, 3, 1, 3)]
CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "functions": lambda: {
        "loss": stateful.ScaledByLast(),
        "metrics": {"accuracy": stateful.Accumulated()},
        "optimizer": stateful.Slower(),
        "scheduler": stateful.Steeper(),
    },
    "loss with a buffer": lambda: {"loss": stateful.Running()},
    "loss with a global variable": lambda: {"loss": stateful.counted_by_module},
    "dataset with a generator": lambda: {"data": stateful.Augmented(*make_data())},
    "dataset that changes its tensors": lambda: {"data": stateful.Worn(*make_data())},
    "dataset that changes its arrays": lambda: {"data": stateful.WornArrays(*make_data())},
}


def outcome(**arguments: Any) -> list[Any]:
    result = validate(folds=FOLDS, epochs=2, batch_size=25, pin=False, **arguments)
    return [(fold.scores, fold.epochs) for fold in result.folds]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_results_do_not_depend_on_the_number_of_workers(case: str) -> None:
    arguments = CASES[case]()
    one, two, four = (outcome(workers=workers, **arguments) for workers in (1, 2, 4))
    assert one == four
    assert two == four


@pytest.mark.parametrize("kind", ["private", "in memory of torch", "mapped from a file"])
def test_folds_do_not_train_a_tensor_of_make_model(kind: str, tmp_path: Path) -> None:
    weight = tensor_in(kind, str(tmp_path / "weight"))
    before = weight.clone()
    model = stateful.FineTuned(weight)
    one, four = (outcome(workers=workers, make_model=model) for workers in (1, 4))
    assert one == four
    assert torch.equal(weight, before)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, functools.partial(torch.optim.SGD, lr=0.1)])
def test_what_optimizers_of_torch_import_is_imported_once(optimizer: Any) -> None:
    result = validate(
        folds=2,
        epochs=1,
        make_model=stateful.linear_with_dynamo,
        optimizer=optimizer,
        scheduler=None,
        preload=(),
    )
    assert len(result.folds) == 2


def tensor_in(kind: str, file: str) -> Tensor:
    values = torch.randn(16, 6, generator=torch.Generator().manual_seed(3))
    if kind == "mapped from a file":
        return torch.from_file(file, shared=True, size=values.numel()).view(16, 6).copy_(values)
    return values if kind == "private" else values.share_memory_()
