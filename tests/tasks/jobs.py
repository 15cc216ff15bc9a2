"""Functions of the tests' workers; spawned processes import this module."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn


class Unlucky(Exception):
    """Raised by the tests' tasks."""


def inner_trouble() -> NoReturn:
    raise Unlucky("boom")


def first_time(notes: Path, name: str) -> bool:
    """Whether nobody has asked for ``name`` in ``notes`` before."""
    try:
        (notes / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def task(task: str, notes: Path) -> Any:
    """Execute the task."""
    if task == "raise":
        inner_trouble()
    elif task == "exit":
        sys.exit(3)
    elif task == "die once" and first_time(notes, task):
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "die always":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif task == "die afterwards":
        end_after_the_next_word(signal.SIGKILL)
    elif task == "stop afterwards":
        end_after_the_next_word(signal.SIGSTOP)
    elif task == "linger":
        time.sleep(60)
    elif task == "lock":
        return threading.Lock()
    elif task == "facts":
        return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], os.sched_getaffinity(0)
    return task, os.getpid()


def end_after_the_next_word(number: int) -> None:
    """Send this process a signal as soon as it has sent its parent another message."""
    send = Connection.send

    def send_and_end(line: Connection, words: object) -> None:
        send(line, words)
        os.kill(os.getpid(), number)

    Connection.send = send_and_end  # type: ignore[assignment, method-assign]


class EndsWhenReady:
    """The process that unpickles it is killed when it has reported to be ready."""

    def __reduce__(self) -> tuple[Any, tuple[int]]:
        return end_after_the_next_word, (signal.SIGKILL,)


class NotHere(Exception):
    """Pickles, but does not unpickle."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return inner_trouble, ()


def touch_all(task: int, tensor: Tensor, array: npt.NDArray[np.float32], notes: Path) -> Any:
    """Read everything, wait for the other worker to have done so, and look at the memory.

    Returns:
        Sums of both, their resident and proportional sizes, and the process id.
    """
    sums = float(tensor.sum(dtype=torch.float64)), float(array.sum(dtype=np.float64))
    (notes / str(task)).touch()
    deadline = time.monotonic() + 120
    while len(list(notes.iterdir())) < 2:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
    sizes = mapping_of(tensor.data_ptr()), mapping_of(array.ctypes.data)
    (notes / f"{task} has looked").touch()
    while len(list(notes.iterdir())) < 4:
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
    if task == 0:
        array[0] = 7  # stays here
        tensor[0] = 7  # all see it
    return sums, sizes, os.getpid()


def mapping_of(address: int) -> tuple[int, int]:
    """Bytes of the mapping around an address: resident, and by its share in their use."""
    found: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            first, last = (int(end, 16) for end in name.split("-"))
            inside = first <= address < last
        elif inside:
            found[name] = int(rest[0]) * 1024 if rest and rest[0].isdigit() else 0
    return found["Rss:"], found["Pss:"]


def make_model() -> nn.Module:
    """Small, with dropout and batch normalization: random numbers and running state matter."""
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def make_schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)


def mean_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


class DiesOnce(nn.Module):
    """The making of the model that is number ``when`` in ``notes`` kills its process."""

    def __init__(self, notes: Path, when: int) -> None:
        super().__init__()
        self.net = make_model()
        made = 0
        while not first_time(notes, str(made)):
            made += 1
        if made == when:
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class Slope(nn.Module):
    """One weight that moves by 1 with each step of SGD(lr=1) under ``valley``."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * torch.ones_like(x[:, 0])


def valley(outputs: Tensor, targets: Tensor) -> Tensor:
    """The weight in training, its distance from zero when it is scored."""
    return outputs.mean() if outputs.requires_grad else outputs.mean().abs()


def overfit(outputs: Tensor, targets: Tensor) -> Tensor:
    """The weight in training, and the less of it, the more when it is scored."""
    return outputs.mean() if outputs.requires_grad else -outputs.mean()


class Scripted:
    """A loss whose values on the examples held out are given: one for each scoring."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean() if outputs.requires_grad else torch.tensor(self.values.pop(0))


LOCK = threading.Lock()


def guarded(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss under a lock, which has no content to compare."""
    with LOCK:
        return nn.functional.cross_entropy(outputs, targets)
