"""Old names of arguments work for one version, with a warning that says what to write."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt._renamed import renamed
from asyncopt.errors import WorkerError


def test_signatures_have_the_new_names() -> None:
    parameters = set(inspect.signature(asyncopt.launch).parameters)
    assert {"on_error", "retries"} <= parameters
    assert not {"on_failure", "restarts"} & parameters


def fail(worker: Any) -> None:
    raise RuntimeError(f"rank {worker.rank}")


def test_launch_with_old_names() -> None:
    """No replacement is left, so that the loss ends the run."""
    old: dict[str, Any] = {"on_failure": "restart", "restarts": 0}
    with (
        pytest.warns(DeprecationWarning, match=r"on_failure= is now on_error=; write on_error="),
        pytest.warns(DeprecationWarning, match=r"restarts= is now retries=; write retries="),
        pytest.raises(WorkerError, match="rank 0"),
    ):
        asyncopt.launch(fail, workers=1, mode="thread", **old)


def test_both_names_are_refused() -> None:
    both: dict[str, Any] = {"on_failure": "raise", "on_error": "raise"}
    with pytest.raises(TypeError, match="expected on_error= alone, got on_failure= too"):
        asyncopt.launch(fail, workers=1, **both)


def test_the_warning_points_at_the_caller() -> None:
    @renamed(old="new")
    def f(new: int = 0) -> int:
        return new

    given: dict[str, Any] = {"old": 3}
    with pytest.warns(DeprecationWarning, match="old= is now new=") as issued:
        assert f(**given) == 3
    assert issued[0].filename == __file__


@pytest.mark.parametrize("named", [False, True])
def test_save_with_the_path_first(tmp_path: Path, named: bool) -> None:
    model = torch.nn.Linear(3, 2)
    old: Any = asyncopt.save
    if named:
        with pytest.warns(DeprecationWarning, match="args= is now obj="):
            where = old(path=tmp_path, args=model)
    else:
        with pytest.warns(
            DeprecationWarning, match=r"the object comes first; write save\(obj, path"
        ):
            where = old(tmp_path, model)
    expected = asyncopt.save(model, tmp_path / "new")
    names = ["checkpoint.json", "tensors.safetensors"]
    assert sorted(p.name for p in where.iterdir()) == names
    assert (where / names[1]).read_bytes() == (expected / names[1]).read_bytes()
