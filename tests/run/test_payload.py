"""Tensors and arrays in the arguments of workers: one memory, few descriptors, no /dev/shm."""

from __future__ import annotations

import gc
import mmap
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asyncopt.errors import SegmentError
from asyncopt.run import Worker, launch
from asyncopt.store import moving
from asyncopt.tasks import map_tasks

ROOT = Path(__file__).parents[2]


def run_script(script: str, *before: str) -> None:
    """Run a separate program, and fail if an assertion in it fails."""
    done = subprocess.run(
        [*before, sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def memfds() -> int:
    gc.collect()
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return sum("/memfd:" in os.path.realpath(link) for link in links)


def own_mount_is_allowed() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/dev/shm"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


LARGE = """
import os, torch
from asyncopt import SegmentError, launch, map_tasks
from asyncopt.store import memory
def add(worker, *tensors):
    for tensor in tensors:
        tensor += 1
def add_task(task, *tensors):
    add(None, *tensors)
assert os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize == 4 << 20
tensors = [torch.zeros(6 << 20) for _ in range(2)] + [torch.zeros(100) for _ in range(50)]
launch(add, tuple(tensors), workers=1)
map_tasks(add_task, range(1), tuple(tensors), workers=1)
assert all(bool((tensor == 2).all()) for tensor in tensors)
assert os.listdir("/dev/shm") == []
"""


@pytest.mark.slow
@pytest.mark.skipif(not own_mount_is_allowed(), reason="needs the right to mount a small /dev/shm")
def test_a_small_dev_shm() -> None:
    """Containers have 64 MB of it. Here 48 MB of tensors meet 4 MB."""
    mount = 'mount -t tmpfs -o size=4m none /dev/shm && exec "$@"'
    run_script(LARGE, "unshare", "--mount", "sh", "-c", mount, "sh")


MANY = """
import resource
import numpy, torch
from asyncopt import launch, map_tasks
def add(worker, tensors, arrays):
    for tensor in tensors:
        tensor[worker.rank] += 1
    return sum(float(array.sum()) for array in arrays)
def add_task(task, tensors, arrays):
    tensors[0][task] += 1
    return sum(float(array.sum()) for array in arrays)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
tensors = [torch.zeros(2) for _ in range(2000)]
arrays = [numpy.ones(1 << 14, numpy.float32) for _ in range(200)]
for turn in (1, 2):
    run = launch(add, (tensors, arrays), workers=2)
    assert run.results == [200 * 2.0**14] * 2
    assert all(tensor.tolist() == [turn, turn] for tensor in tensors)
sums = [result.value for result in map_tasks(add_task, range(2), (tensors, arrays), workers=2)]
assert sums == [200 * 2.0**14] * 2
assert tensors[0].tolist() == [3, 3]
"""


@pytest.mark.slow
def test_few_descriptors_for_many_tensors_and_arrays() -> None:
    run_script(MANY)


def exclaim(worker: Worker, tensors: dict[str, Any]) -> dict[str, Any]:
    """Write to each tensor through one of its views only; what they all look like then."""
    assert tensors["row"].untyped_storage() is tensors["whole"].untyped_storage()
    assert tensors["tied"] is tensors["weight"]
    tensors["row"].fill_(9)
    tensors["flat"][0] = 8
    with torch.no_grad():
        tensors["weight"].mul_(2)
    return {name: (t.is_leaf, t.requires_grad, type(t)) for name, t in tensors.items()}


def test_views_in_and_outside_of_the_arguments_follow() -> None:
    whole, base = torch.zeros(3, 4), torch.zeros(10)
    weight = nn.Parameter(torch.ones(2))
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    alias, optimizer = weight.data, torch.optim.SGD([weight])
    tensors = {
        "whole": whole,
        "row": whole[1],
        "flat": base[4:],
        "weight": weight,
        "tied": weight,
        "frozen": frozen,
        "leaf": torch.ones(2, requires_grad=True),
    }
    run = launch(exclaim, (tensors,), workers=1)
    assert whole.tolist() == [[0.0] * 4, [9.0] * 4, [0.0] * 4]
    assert base.tolist() == [0.0] * 4 + [8.0] + [0.0] * 5
    assert weight.tolist() == alias.tolist() == [2.0, 2.0]
    assert optimizer.param_groups[0]["params"][0] is weight
    assert run.results[0] == {
        name: (t.is_leaf, t.requires_grad, type(t)) for name, t in tensors.items()
    }


def values(tensor: torch.Tensor) -> Any:
    """A tensor's contents as plain data."""
    if tensor.is_nested:
        return [each.tolist() for each in tensor.unbind()]
    if tensor.device.type == "meta":
        return tensor.shape
    return tensor.to_dense().resolve_conj().resolve_neg().tolist()


class Marked(torch.Tensor):
    """A subclass, as libraries have them."""


def kinds() -> dict[str, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of what torch calls beta or a prototype
        return {
            "empty": torch.empty(0, 3),
            "scalar": torch.tensor(2.5),
            "gaps": torch.arange(20.0)[::3],
            "expanded": torch.ones(1).expand(5),
            "bool": torch.tensor([True, False]),
            "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
            "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
            "both": nn.Parameter(torch.tensor([1 + 2j])._neg_view().conj()),
            "coo": torch.eye(4).to_sparse(),
            "csr": torch.eye(4).to_sparse_csr(),
            "bsc": torch.eye(4).to_sparse_bsc((2, 2)),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)]),
            "meta": torch.empty(3, 2, device="meta"),
            "subclass": torch.ones(3).as_subclass(Marked),
        }


def describe(worker: Worker, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        name: (values(t), type(t), t.dtype, t.layout, t.requires_grad, t.is_conj(), t.is_neg())
        for name, t in tensors.items()
    }


def test_every_kind_of_tensor_arrives_as_it_is() -> None:
    tensors = kinds()
    expected = describe(Worker(0, 1, lambda timeout: None), tensors)
    (got,) = launch(describe, (tensors,), workers=1).results
    assert got == expected
    assert describe(Worker(0, 1, lambda timeout: None), tensors) == expected


def test_tensors_that_cannot_move_are_shared_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncopt.run.payload.can_move", lambda: False)
    base = torch.zeros(3)
    launch(set_first, (base[1:],), workers=1)
    assert base.tolist() == [0.0, 7.0, 0.0]
    assert moving.can_move()


def set_first(worker: Worker, tensor: torch.Tensor) -> None:
    tensor[worker.rank] = 7


def test_storages_that_torch_shares_already_stay_there() -> None:
    shared = torch.zeros(2).share_memory_()
    place = shared.data_ptr()
    launch(set_first, (shared,), workers=2)
    assert shared.data_ptr() == place
    assert shared.tolist() == [7.0, 7.0]


def test_a_tensor_that_shows_a_file_shows_it_in_workers(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(8))
    tensor = torch.from_file(str(path), shared=True, size=2)
    launch(set_first, (tensor,), workers=2)
    assert tensor.tolist() == [7.0, 7.0]
    assert np.fromfile(path, np.float32).tolist() == [7.0, 7.0]


def write_and_die(worker: Worker, tensor: torch.Tensor) -> list[float]:
    tensor[worker.rank] += 1
    if tensor[worker.rank] == 1:
        os._exit(3)
    return [float(value) for value in tensor]


def test_a_replacement_and_the_next_launch_see_the_same_memory() -> None:
    tensor = torch.zeros(1)
    before = memfds()
    for count in (2, 3):
        if count == 2:
            with pytest.warns(RuntimeWarning, match=r"worker 0 exited with code 3"):
                run = launch(write_and_die, (tensor,), workers=1, on_error="restart")
        else:
            run = launch(write_and_die, (tensor,), workers=1)
        assert run.results == [[float(count)]]
        assert tensor.tolist() == [float(count)]
    assert memfds() == before + 1


def huge() -> torch.Tensor:
    """1 TiB of addresses, of which nothing is memory."""
    return torch.frombuffer(mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | 0x4000), dtype=torch.uint8)


def nothing(*args: Any) -> None: ...


CALLS: dict[str, Callable[[Any], object]] = {
    "args": lambda args: launch(nothing, args, workers=2),
    "data": lambda args: map_tasks(nothing, range(2), args, workers=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("large", [huge, lambda: huge().numpy()], ids=["tensor", "array"])
@pytest.mark.parametrize("name", CALLS)
def test_more_than_there_is_memory(name: str, large: Any) -> None:
    small, files = torch.ones(3), os.listdir("/dev/shm")
    before = memfds()
    match = rf"^{name}: .* of 1,099,511,627,7\d\d bytes .*: cannot allocate 1,099,511,627,776 bytes"
    with pytest.raises(SegmentError, match=match):
        CALLS[name]((small, large()))
    assert small.tolist() == [1.0] * 3
    assert memfds() - before <= 1  # the small one's
    assert set(os.listdir("/dev/shm")) <= set(files)
    launch(set_first, (small,), workers=1)
    assert small[0] == 7


def test_memory_of_a_deleted_tensor_is_freed_though_others_live() -> None:
    large, small = torch.zeros(1 << 20), torch.zeros(10)
    before = memfds()
    launch(nothing, (large, small), workers=1)
    assert memfds() == before + 2
    del large
    assert memfds() == before + 1
    assert small.tolist() == [0.0] * 10


def same_array(worker: Worker, frame: Any) -> bool:
    return bool(frame.one is frame.other) and float(frame.one.sum()) == 1 << 20


class Frame:
    """Makes new arrays over its memory whenever it is pickled, as data frames do."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.one = self.other = array

    def __getstate__(self) -> dict[str, Any]:
        view = self.one[:]
        return {"one": view, "other": view}


def test_arrays_are_copied_once_for_all_workers() -> None:
    frame = Frame(np.ones(1 << 20, np.uint8))
    assert launch(same_array, (frame,), workers=2).results == [True, True]


def first_draw(worker: Worker, dice: torch.Generator, table: torch.Tensor) -> float:
    return float(torch.rand((), generator=dice) + table.sum())


def test_a_generator_is_sent_though_its_state_is_a_passing_tensor() -> None:
    """The descriptor of memory that only the pickle used must stay open until it is sent."""
    dice, table = torch.Generator().manual_seed(3), torch.zeros(1 << 20)
    results = launch(first_draw, (dice, table), workers=2).results
    assert results == [float(torch.rand((), generator=dice))] * 2
