"""Workers get the data as the launching process sees it at the call, or an error."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from asyncopt.run import Worker, launch
from asyncopt.run.mappings import Mappings
from asyncopt.tasks import map_tasks

N = 20_000
NUMBERS = np.arange(float(N))  # 160 KB: two pages are edited, the others are in the file

Data = dict[str, Any]


def edited(folder: Path, mode: Any = "c") -> Any:
    """A map of the numbers' file whose first page was written to after it was mapped."""
    np.save(folder / f"{mode}.npy", NUMBERS)
    mapped = np.load(folder / f"{mode}.npy", mmap_mode=mode)
    mapped[:3] = -1, -2, -3
    return mapped


def copies_on_write(folder: Path) -> Data:
    mapped = edited(folder)
    return {
        "map": mapped,
        "view": mapped[::2],
        "reversed": mapped[::-1],
        "as an array": np.asarray(mapped).reshape(2, -1),
        "small": mapped[:10],
        "rest, as in the file": mapped[10_000:],
        "tensor": torch.from_numpy(mapped),
        "view of a tensor": torch.from_numpy(mapped)[1:5],
        "shared in the file": edited(folder, "r+"),
        "read-only": np.load(folder / "c.npy", mmap_mode="r"),
    }


def private_files_of_torch(folder: Path) -> Data:
    NUMBERS.tofile(folder / "raw")
    private = torch.from_file(str(folder / "raw"), shared=False, size=N, dtype=torch.float64)
    private[:3] = -1
    torch.save({"x": torch.arange(float(N))}, folder / "x.pt")
    loaded = torch.load(folder / "x.pt", mmap=True)["x"]
    loaded[:3] = -1
    return {"from_file": private, "load": loaded}


def files_that_are_gone(folder: Path) -> Data:
    found = {}
    for kind in ("deleted", "replaced", "renamed", "deleted, copy-on-write"):
        path, other = folder / f"{kind}.npy", folder / f"{kind}, other.npy"
        np.save(path, NUMBERS)
        found[kind] = np.load(path, mmap_mode="c" if "copy" in kind else "r")
        if kind == "replaced":
            np.save(other, NUMBERS + 1)
            other.replace(path)
        elif kind == "renamed":
            path.rename(other)
            np.save(path, NUMBERS + 1)
        else:
            path.unlink()
    return found


def see(worker: Any, data: Data) -> Data:
    """Copies of everything, and what it came as."""
    return {
        name: (type(each), np.array(each.numpy() if torch.is_tensor(each) else each))
        for name, each in data.items()
    }


@pytest.mark.parametrize(
    "make", [copies_on_write, private_files_of_torch, files_that_are_gone], ids=lambda f: f.__name__
)
def test_edited_and_lost_files(make: Callable[[Path], Data], tmp_path: Path) -> None:
    data = make(tmp_path)
    expected = see(None, data)
    runs = [*launch(see, (data,), workers=2).results, map_tasks(see, [0], (data,))[0].value]
    for seen in runs:
        for name, (kind, numbers) in expected.items():
            assert seen[name][0] is kind, name
            assert np.array_equal(seen[name][1], numbers), name


def cut(folder: Path) -> Any:
    mapped = edited(folder)
    os.truncate(folder / "c.npy", 8192)
    return mapped


def deleted(folder: Path) -> Any:
    mapped = edited(folder, "r+")
    (folder / "r+.npy").unlink()
    return mapped[5:]


def nameless(folder: Path) -> Any:
    with open(folder / "raw", "w+b", buffering=0) as file:
        NUMBERS.tofile(file)
        descriptor = open(file.fileno(), "r+b", buffering=0, closefd=False)  # noqa: SIM115
        return np.memmap(descriptor, mode="r+")


def deleted_tensor(folder: Path) -> Any:
    NUMBERS.tofile(folder / "raw")
    tensor = torch.from_file(str(folder / "raw"), shared=True, size=N, dtype=torch.float64)
    (folder / "raw").unlink()
    return tensor


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut, r"memory map: expected a file of 160,128 bytes or more, .* got 8,192 bytes, .*"),
        (deleted, r"memory map: expected a file that workers can open .* deleted or replaced, .*"),
        (nameless, r"memory map: expected a file .*, without a name; map a file by its name, .*"),
        (deleted_tensor, r"torch\.from_file: expected a file of 160,000 bytes .* deleted, .*"),
    ],
)
def test_what_cannot_be_seen_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    """Writes to a shared map must reach the others; missing bytes would kill workers."""
    with pytest.raises(TypeError, match=rf"^args\[1\]: .*\({message}\)"):
        launch(see, ({}, make(tmp_path)), workers=1)


class Temporary(Dataset[float]):
    """A dataset that makes tensors and arrays when it is pickled, which nothing else holds."""

    def __init__(self) -> None:
        self.numbers = [float(i) for i in range(N)]

    def __getstate__(self) -> Data:
        return {"tensor": torch.tensor(self.numbers), "array": np.array(self.numbers)}

    def __setstate__(self, state: Data) -> None:
        assert state["array"].tolist() == state["tensor"].tolist()
        self.numbers = state["array"].tolist()


def total(worker: Any, dataset: Temporary, *generators: torch.Generator) -> list[float]:
    """Sum, and what generators draw."""
    return [sum(dataset.numbers), *(float(torch.rand((), generator=g)) for g in generators)]


def test_tensors_that_are_made_for_the_pickle_arrive() -> None:
    """Descriptors of theirs must outlive them until the process has started."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    expected = total(None, Temporary(), *(g.clone_state() for g in generators))
    for args in ((Temporary(), *generators),) * 2:
        assert launch(total, args, workers=2).results == [expected] * 2
        assert map_tasks(total, [0], args)[0].value == expected


def test_mappings_of_this_process(tmp_path: Path) -> None:
    path = tmp_path / "a file\nwith (odd) name"
    path.write_bytes(bytes(4 * mmap.PAGESIZE))
    with open(path, "r+b") as file:
        private = np.frombuffer(mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE), np.uint8)
        shared = np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
    places = [each.__array_interface__["data"][0] for each in (private, shared)]
    ends = [(place, place + len(private) - 1) for place in places]
    found = [Mappings().at(place) for place in places]
    assert [each and (each.path, each.is_shared) for each in found] == [
        (str(path), False),
        (str(path), True),
    ]
    assert not any(Mappings().is_written(*each) for each in ends)
    private[2 * mmap.PAGESIZE] = shared[0] = 1
    assert [Mappings().is_written(*each) for each in ends] == [True, False]
    assert Mappings().at(np.ones(3).__array_interface__["data"][0]) is None
    path.unlink()
    gone = Mappings().at(places[0])
    assert gone is not None
    assert gone.path is None


def test_a_clean_copy_on_write_map_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", NUMBERS)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    assert launch(where, (mapped,), workers=1).results == [str(tmp_path / "x.npy")]


def where(worker: Worker, mapped: Any) -> str | None:
    found = Mappings().at(mapped.__array_interface__["data"][0])
    return None if found is None else found.path
