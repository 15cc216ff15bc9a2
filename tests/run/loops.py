"""Training loops that the tests run in workers: spawned processes import them from here."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler

from asyncopt.run import Worker


def collect(worker: Worker, data: torch.Tensor) -> list[list[int]]:
    """The batches that a worker gets."""
    loop = worker.batches(data, 3, epochs=4, seed=9, dispatch="dynamic")
    return [batch.tolist() for batch in loop]


def collect_from(worker: Worker, loader: Any) -> list[Any]:
    """The batches that a worker gets of a loader."""
    batches = worker.batches(loader, epochs=3, dispatch="dynamic")
    return [
        [part.tolist() for part in batch] if isinstance(batch, list) else batch.tolist()
        for batch in batches
    ]


def collect_replicas(worker: Worker, examples: int) -> None:
    """Have a sampler for each rank, as under ``torch.distributed``."""
    data = torch.utils.data.TensorDataset(torch.arange(examples))
    sampler: Any = torch.utils.data.DistributedSampler(data, worker.world_size, worker.rank)
    list(worker.batches(torch.utils.data.DataLoader(data, 4, sampler=sampler)))


def regression(width: int = 5) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A small model and data for it, float32, always the same."""
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Linear(width, 3)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(60, width, generator=generator)
    return model, x, torch.randn(60, 3, generator=generator)


def descend(
    worker: Worker,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[torch.Tensor, torch.Tensor],
    dispatch: str = "dynamic",
    epochs: int = 3,
) -> int:
    """Least squares, a batch of 4 at a time; the number of batches."""
    turns = 0
    for x, y in worker.batches(data, 4, epochs, dispatch=dispatch):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        turns += 1
    return turns


def descend_alone(
    worker: Worker, model: torch.nn.Module, optimizer: torch.optim.Optimizer, turns: int
) -> None:
    """Without batches: pull and push."""
    for _ in range(turns):
        worker.pull()
        optimizer.zero_grad()
        model(torch.ones(1, 5)).sum().backward()
        worker.push(optimizer)


def push_out_of_turn(
    worker: Worker, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    model(torch.ones(1, 5)).sum().backward()
    optimizer.step()


def meet_within_turns(
    worker: Worker, model: torch.nn.Module, optimizer: torch.optim.Optimizer, turns: int
) -> None:
    """Each worker meets the others at the end of each of its turns."""
    for _ in worker.batches(torch.arange(turns * worker.world_size), 1):
        optimizer.zero_grad()
        model(torch.ones(1, 5)).sum().backward()
        optimizer.step()
        worker.barrier()


def one_cycle(optimizer: torch.optim.Optimizer) -> LRScheduler:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=60)


def scheduled(
    worker: Worker,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler | None,
    data: tuple[torch.Tensor, torch.Tensor],
) -> tuple[list[Any], Any, set[str]]:
    """Rate and betas after each batch, those when all are done, and the modules imported by then.

    Args:
        scheduler: None to make one here.
    """
    before = set(sys.modules)
    scheduler = scheduler or one_cycle(optimizer)

    def rate() -> Any:
        group = optimizer.param_groups[0]
        return group["lr"], group["betas"]

    seen = []
    for x, y in worker.batches(data, 4, epochs=3):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        worker.schedule(scheduler)
        seen.append(rate())
    worker.barrier()
    worker.schedule(scheduler)
    return seen, rate(), set(sys.modules) - before


class Rows(torch.utils.data.Dataset[float]):
    """The numbers of an array, one by one."""

    def __init__(self, numbers: Any) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> float:
        return float(self.numbers[index])


def unwrap(data: Any) -> np.ndarray[Any, Any]:
    """The array in whatever it came in."""
    while not isinstance(data, np.ndarray):
        if isinstance(data, torch.utils.data.DataLoader):
            data = data.dataset
        elif isinstance(data, Rows):
            data = data.numbers
        elif isinstance(data, torch.Tensor):
            data = data.numpy()
        else:
            data = next(iter(data.values() if isinstance(data, dict) else data))
    return data


def private_bytes(address: int) -> int:
    """Bytes of the mapping at an address that are this process's own, and in no file."""
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and line.startswith("Anonymous:"):
            total += int(line.split()[1]) * 1024
    return total


def weigh(
    worker: Worker, data: dict[str, Any], again: dict[str, Any]
) -> dict[str, tuple[float, int, bool]]:
    """Each one's sum, what holding it costs this worker alone, and whether both are the same."""
    found = {}
    for kind, each in data.items():
        array = unwrap(each)
        total = float(np.asarray(array).sum())
        private = private_bytes(array.__array_interface__["data"][0])
        found[kind] = total, private, each is again[kind]
    return found


def overwrite(
    worker: Worker, array: np.ndarray[Any, Any], small: np.ndarray[Any, Any]
) -> tuple[float, float]:
    for each in (array, small):
        each += worker.rank + 1
    worker.barrier()
    return float(array.mean()), float(small.mean())


def look(
    worker: Worker, *views: np.ndarray[Any, Any]
) -> tuple[list[np.ndarray[Any, Any]], list[type], set[str], bool]:
    """Copies of what is seen of a file, in which files it is, and whether it can be written to."""
    seen = [np.array(view) for view in views]
    places = [view.__array_interface__["data"][0] for view in views]
    paths = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if any(low <= place < high for place in places):
            paths.add(line.split()[-1])
    writable = views[0].flags.writeable
    if writable:
        views[0][0, 0] = -1
    return seen, [type(view) for view in views], paths, writable


def echo(worker: Worker, *args: Any) -> tuple[Any, ...]:
    return args


def note_batches(worker: Worker, data: Any, notes: Path, dispatch: str) -> None:
    """Write every batch down before its work; worker 1 is killed in its third, the first time."""
    size = None if isinstance(data, torch.utils.data.DataLoader) else 3
    for count, batch in enumerate(worker.batches(data, size, dispatch=dispatch), 1):
        with open(notes, "a") as file:
            file.write(f"{worker.rank} {batch.tolist()}\n")
        killed = notes.with_suffix(".killed")
        deadline = time.monotonic() + 60
        while worker.rank == 0 and not killed.exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # leaves three to the other one
        if worker.rank == 1 and count == 3:
            try:
                killed.touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
