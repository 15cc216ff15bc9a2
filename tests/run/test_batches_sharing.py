"""Data sent to worker processes: one copy in memory, in any container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from asyncopt.run import launch

from . import loops

N = 1 << 21  # elements; 16 MB as float64
NUMBERS = np.arange(float(N))


def data_of(kind: str, folder: Path) -> Any:
    """The numbers, in each way of holding them."""
    if kind == "array":
        return NUMBERS.copy()
    if kind == "nested":
        return {"deep": [(NUMBERS.copy(),)]}
    if kind == "view":
        return np.stack([NUMBERS, -NUMBERS], axis=1)[:, 0]
    if kind == "fortran":
        return np.asfortranarray(NUMBERS.reshape(2, -1))
    if kind == "tensor":
        return torch.from_numpy(NUMBERS.copy())
    if kind == "dataset":
        return loops.Rows(NUMBERS.copy())
    if kind == "loader":
        return DataLoader(loops.Rows(NUMBERS.copy()), batch_size=4, shuffle=True)
    np.save(folder / "x.npy", NUMBERS)
    mapped = np.load(folder / "x.npy", mmap_mode="r")
    return np.asarray(mapped) if kind == "view of a map" else mapped


KINDS = (
    "array",
    "nested",
    "view",
    "fortran",
    "tensor",
    "dataset",
    "loader",
    "map",
    "view of a map",
)


def test_no_worker_has_a_copy(tmp_path: Path) -> None:
    data = {kind: data_of(kind, tmp_path) for kind in KINDS}
    run = launch(loops.weigh, (data, dict(data)), workers=2)
    for found in run.results:
        for kind, (total, private, twice) in found.items():
            assert total == NUMBERS.sum(), kind
            assert private < 1 << 20, kind  # bytes, of 16 MB that were read
            assert twice, kind  # one thing in args is one thing in the worker


def test_what_a_worker_writes_to_an_array_is_its_own() -> None:
    array = np.zeros(1 << 20)
    small = np.zeros(4)
    run = launch(loops.overwrite, (array, small), workers=2)
    assert run.results == [(1.0, 1.0), (2.0, 2.0)]
    assert array.sum() == small.sum() == 0


@pytest.mark.parametrize("mode", ["r", "w+", "c"])
def test_maps_are_mapped_again(mode: Any, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    NUMBERS[:1000].tofile(path)
    mapped: Any = np.memmap(path, "f8", mode, offset=80, shape=(30, 20))
    if mode == "w+":
        mapped[:] = NUMBERS[10:610].reshape(30, 20)
    views = (mapped, mapped[3:, ::2], mapped[::-1], np.asarray(mapped).T, mapped[5, 5:6])
    before = [np.array(view) for view in views]
    seen, kinds, paths, writable = launch(loops.look, views, workers=1).results[0]
    for mine, its in zip(before, seen, strict=True):
        assert np.array_equal(mine, its)
    assert kinds == [type(view) for view in views]
    assert paths == {str(path)}
    assert writable == (mode != "r")
    if mode == "w+":
        assert mapped[0, 0] == -1  # what the worker wrote is in the file
    else:
        assert mapped[0, 0] == 10


def test_a_map_without_a_name_is_copied_once(tmp_path: Path) -> None:
    with open(tmp_path / "numbers", "w+b", buffering=0) as file:
        NUMBERS.tofile(file)
        descriptor = open(file.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115
        mapped = np.memmap(descriptor, "f8", "r")
        assert mapped.filename is None
        data = {"map": mapped}
        total, private, _ = launch(loops.weigh, (data, data), workers=1).results[0]["map"]
        descriptor.close()
    assert total == NUMBERS.sum()
    assert private < 1 << 20


def test_odd_arrays_travel_as_they_did() -> None:
    arrays = (
        np.zeros((0, 5)),
        np.array([{"a": 1}, None], dtype=object),
        np.ma.masked_array(np.arange(1 << 16), mask=np.arange(1 << 16) > 9),
        np.zeros(1 << 14, dtype=[("a", ">i4"), ("b", "f8")]),
        np.array(3.0),
    )
    run = launch(loops.echo, arrays, workers=1)
    for mine, its in zip(arrays, run.results[0], strict=True):
        assert type(mine) is type(its)
        assert mine.dtype == its.dtype
        assert np.array_equal(mine, its)
