"""Every test of device workers runs on the host, and on a GPU where there is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from asyncopt.devices import chunks
from asyncopt.devices.lanes import ThreadLane
from asyncopt.run import Run, launch

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

DEVICES = ["cpu", pytest.param("cuda:0", marks=NO_GPU)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so small that every model has several; threads see the patched module."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1024)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread: several would add in any order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


COPY = 0.004  # s that each copy takes on a slow lane


@pytest.fixture
def slow_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every copy takes as long as through a slow link; pushes are as fast as they are."""
    submit = ThreadLane.submit

    def slowly(self: ThreadLane, work: Callable[[], None], after: Any = None) -> Any:
        def work_slowly() -> None:
            time.sleep(COPY)
            work()

        is_copy = not self._thread.name.endswith("push")
        return submit(self, work_slowly if is_copy else work, after)

    monkeypatch.setattr(ThreadLane, "submit", slowly)


Train = Callable[..., Run]


@pytest.fixture
def on(device: str) -> Train:
    """Launches with workers on the device, as threads with one torch thread each."""

    def train(fn: Callable[..., Any], *args: Any, workers: int = 1, **options: Any) -> Run:
        options = {"mode": "thread", "threads_per_worker": 1, **options}
        return launch(fn, args, devices=[device] * workers, **options)

    return train


def assert_same(device: str, a: torch.nn.Module, b: torch.nn.Module) -> None:
    """Bit for bit on the host; a GPU adds up in another order."""
    for (name, one), other in zip(a.named_parameters(), b.parameters(), strict=True):
        if device == "cpu":
            assert torch.equal(one, other), name
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
