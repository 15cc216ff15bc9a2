"""Random numbers as training code draws them, from every global generator of a process."""

from __future__ import annotations

import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

from asyncopt.run import Worker

EXAMPLES = 64


@dataclass(frozen=True)
class Draws:
    """Numbers from the global generators; two equal fields mean two equal streams."""

    initial_seed: int
    torch: tuple[float, ...]
    numpy: tuple[float, ...]
    python: tuple[float, ...]
    dropout: tuple[float, ...]
    weights: tuple[float, ...]
    order: tuple[int, ...]


def draws() -> Draws:
    """The next numbers of this process."""
    dropped = torch.nn.functional.dropout(torch.ones(EXAMPLES))
    weights = torch.nn.init.normal_(torch.empty(4))
    loader = DataLoader(TensorDataset(torch.arange(EXAMPLES)), shuffle=True)
    return Draws(
        torch.initial_seed(),
        tuple(torch.rand(4).tolist()),
        tuple(np.random.random(4).tolist()),  # noqa: NPY002 - the generator that all code shares
        tuple(random.random() for _ in range(4)),
        tuple(dropped.tolist()),
        tuple(weights.tolist()),
        tuple(int(example) for (example,) in loader),
    )


def equal_fields(one: Draws, other: Draws) -> list[str]:
    """Names of the fields in which two streams are the same."""
    second = asdict(other)
    return [name for name, value in asdict(one).items() if value == second[name]]


def draw(worker: Worker) -> Draws:
    """Draw in a worker of a run."""
    return draws()


def draw_in_task(task: int) -> Draws:
    """Draw in a task of a pool."""
    return draws()


def draw_and_die(worker: Worker, seen: torch.Tensor) -> Draws:
    """Rank 0 is killed twice; each of its processes first writes a row of ``seen``."""
    found = draws()
    if worker.rank == 0:
        life = int((seen[:, 0] != 0).sum())
        if life < len(seen):
            seen[life] = torch.tensor([found.torch[0], found.numpy[0], found.python[0]])
            os._exit(3)
    return found


def draw_on_gpu(worker: Worker) -> list[float]:
    """Draw from the generator of the worker's GPU."""
    found: list[float] = torch.rand(4, device=worker.device).tolist()
    return found


def draw_after_a_death(task: int, folder: Path) -> Draws:
    """Draw in a task whose first worker dies after its draw."""
    found = draws()
    mark = folder / str(task)
    if not mark.exists():
        mark.touch()
        os._exit(3)
    return found


class RandomOffset:
    """A metric: noise that it draws when it is unpickled and when it is called."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return self.offset + random.random() + float(np.random.random())  # noqa: NPY002

    def __setstate__(self, state: dict[str, float]) -> None:
        self.offset = float(torch.rand(())) + random.random() + float(np.random.random())  # noqa: NPY002
