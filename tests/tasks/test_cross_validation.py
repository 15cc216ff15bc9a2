"""cross_validate equals a serial loop, also after failures."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from asyncopt.errors import TaskError
from asyncopt.tasks import CrossValidation, cross_validate
from tests.run.conftest import descendants, gone

from . import jobs
from .launcher import call
from .reference import EPOCHS, FOLDS, make_data, serial, validate

PROGRAM = """
import sys
from pathlib import Path
from threading import Lock
from tests.tasks.launcher import call
call(Path(sys.argv[1]))
"""


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def scores_of(result: CrossValidation) -> list[dict[str, float]]:
    return [fold.scores for fold in result.folds]


def is_earlier(result: CrossValidation) -> list[bool]:
    """For each fold, whether an earlier call has trained it."""
    return [math.isnan(fold.begin) for fold in result.folds]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_folds_are_those_of_a_serial_loop_to_the_last_bit(tmp_path: Path) -> None:
    result = validate(directory=tmp_path)
    for fold in result.folds:
        rates, scores, state = serial(fold.number)
        assert fold.scores == scores
        assert [epoch.lr for epoch in fold.epochs] == rates
        assert fold.best == EPOCHS
        assert (fold.train_examples, fold.test_examples) in ((66, 34), (67, 33))
        ours = result.state_dict(fold.number)
        assert list(ours) == list(state)
        assert all(torch.equal(ours[name], state[name]) for name in state)
    assert {fold.worker for fold in result.folds} == {0, 1}

    with open(tmp_path / "checkpoint-000000001" / "tensors.safetensors", "r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"damaged")
    with pytest.warns(RuntimeWarning, match="cannot be read, and its fold is trained again"):
        again = validate(directory=tmp_path, data=TensorDataset(*make_data()))
    assert sorted(is_earlier(again)) == [False, True, True]
    assert scores_of(again) == scores_of(result)


def test_a_directory_is_for_one_call(tmp_path: Path) -> None:
    first = validate(folds=[(range(9), range(9, 14))], epochs=1, directory=tmp_path)
    x, y = make_data()
    for arguments, name in (({"epochs": 2}, "epochs"), ({"data": (x + 1, y)}, "data")):
        with pytest.raises(ValueError, match=f"got those of one with other {name} in "):
            validate(
                folds=[(range(9), range(9, 14))],
                **{"epochs": 1, "directory": tmp_path} | arguments,
            )
    with pytest.raises(ValueError, match="got those of one with other folds in "):
        validate(epochs=1, directory=tmp_path)
    again = validate(folds=[(range(9), range(9, 14))], epochs=1, directory=tmp_path)
    assert is_earlier(again) == [True]
    assert scores_of(again) == scores_of(first)
    assert math.isnan(again.std["loss"])


@pytest.mark.usefixtures("one_thread")
def test_a_killed_fold_is_run_again_and_comes_out_the_same(tmp_path: Path) -> None:
    arrays = tuple(column.numpy() for column in make_data())
    result = validate(make_model=functools.partial(jobs.DiesOnce, tmp_path, 1), data=arrays)
    assert sum(fold.attempts for fold in result.folds) == FOLDS + 1
    assert scores_of(result) == [serial(fold)[1] for fold in range(FOLDS)]


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_a_call_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("folds/checkpoint-*"))) < 2:
            assert program.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = descendants(program.pid)
    finally:
        program.kill()
        program.wait()
    deadline = time.monotonic() + 30
    while not all(map(gone, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (tmp_path / "go on").touch()
    result = call(tmp_path)
    assert is_earlier(result) == [True, True, False]
    assert scores_of(result) == [serial(fold)[1] for fold in range(FOLDS)]


@pytest.mark.slow
def test_early_stopping_keeps_the_best_epoch(tmp_path: Path) -> None:
    """The weight goes 3, 2, 1, 0, -1, ...: by one with each epoch's only batch."""
    x = torch.zeros(8, 1)
    result = cross_validate(
        jobs.Slope,
        (x, torch.zeros(8)),
        folds=2,
        optimizer=functools.partial(torch.optim.SGD, lr=1.0),
        loss=jobs.valley,
        metrics={"weight": jobs.mean_output},
        epochs=20,
        patience=2,
        workers=1,
        directory=tmp_path,
        preload=["torch._dynamo"],
    )
    for fold in result.folds:
        assert [epoch.train_loss for epoch in fold.epochs] == [3, 2, 1, 0, -1]
        assert fold.best == 3
        assert fold.scores == {"loss": 0, "weight": 0}
        assert result.state_dict(fold.number)["weight"] == 0


class Squares(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that makes its examples."""

    targets = torch.arange(20) % 2

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return torch.full((6,), float(number)), self.targets[number]


def test_a_dataset_and_a_schedule_by_batch_and_by_loss() -> None:
    result = validate(
        data=Squares(),
        workers=1,
        folds=StratifiedKFold(2),
        batch_size=5,
        epochs=3,
        scheduler=functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
        schedule_by="batch",
        evaluate_every=2,
    )
    for fold in result.folds:
        assert [epoch.lr for epoch in fold.epochs] == [0.1, 0.1 / 4, 0.1 / 16]
        assert [epoch.scores is None for epoch in fold.epochs] == [True, False, False]
        assert "accuracy" in fold.scores


def test_a_failing_fold_is_named() -> None:
    with pytest.raises(TaskError, match=r"^task 0: worker 0 raised .*RuntimeError: mat1 and mat2"):
        validate(data=(torch.zeros(10, 5), torch.zeros(10).long()), folds=2, workers=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"make_model": Lock().__enter__}, "make_model: expected what pickle can send"),
        ({"optimizer": 3}, "optimizer: expected a function, got int"),
        ({"make_model": torch.nn.Linear(2, 2)}, "make_model: expected a function .* got a model"),
        ({"metrics": [len]}, "metrics: expected a dict of functions by name, got list"),
        ({"metrics": {"f": None}}, r"metrics\['f'\]: expected a function, got NoneType"),
        ({"data": [1]}, "data: expected a tuple .inputs, targets. or a dataset, got list"),
        ({"data": (torch.zeros(3),)}, "data: expected inputs and targets, got 1"),
        ({"data": DataLoader(Squares())}, "got a DataLoader.*pass its dataset"),
        ({"epochs": 0}, "epochs: expected an integer >= 1, got 0"),
        ({"patience": 0}, "patience: expected an integer >= 1, got 0"),
        ({"schedule_by": "step"}, "schedule_by: expected 'epoch' or 'batch', got 'step'"),
        ({"batch_size": 67, "drop_last": True}, "batch_size: expected at most 66, the examples"),
        ({"workers": 0}, "workers: expected an integer >= 1, got 0"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        validate(**arguments)


CALL = """
import math, sys
sys.path[:0] = sys.argv[1:2]
import recipe
from asyncopt.tasks import cross_validate
if __name__ == "__main__":
    result = cross_validate(
        recipe.make_model, recipe.Line(), 2, 1, loss=recipe.loss, epochs=1,
        directory=sys.argv[1] + "/folds",
    )
    print([math.isnan(fold.begin) for fold in result.folds])
"""
RECIPE = """
import torch
class Line(torch.utils.data.Dataset):
    def __len__(self): return 20
    def __getitem__(self, number): return torch.tensor([float(number)]), torch.tensor([1.0])
def make_model(): return torch.nn.Linear(1, width())
def width(): return 1
def loss(outputs, targets): return ((outputs - targets) ** 2).mean()
"""


@pytest.mark.slow
def test_an_edited_module_is_another_call(tmp_path: Path) -> None:
    """The folds of an earlier process are its results as long as code and data are the same."""

    def call_with(recipe: str, hash_seed: str) -> tuple[str, str]:
        (tmp_path / "recipe.py").write_text(recipe)
        done = subprocess.run(
            [sys.executable, "-B", "-c", CALL, str(tmp_path)],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "PYTHONHASHSEED": hash_seed,
            },
            capture_output=True,
            text=True,
        )
        return done.stdout.strip(), done.stderr

    assert call_with(RECIPE, "1")[0] == "[False, False]"
    assert call_with(RECIPE, "2")[0] == "[True, True]"
    edits = {"loss": ("** 2", "** 4"), "make_model": ("width(): return 1", "width(): return 1 + 0")}
    edits["data"] = ("tensor([float(number)])", "tensor([float(number) + 1])")
    for name, (old, new) in edits.items():
        said, error = call_with(RECIPE.replace(old, new).replace("1 + 0", "int(1)"), "3")
        assert said == ""
        assert (
            f"ValueError: directory: expected folds of the same call, got those of one with "
            f"other {name} in " in error
        )


def test_what_cannot_be_compared_needs_no_directory(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^loss: .* type _thread\.lock .*; make it inside"):
        validate(loss=jobs.guarded, directory=tmp_path / "folds")
    assert not (tmp_path / "folds").exists()
    assert len(validate(loss=jobs.guarded, folds=2, epochs=1).folds) == 2
