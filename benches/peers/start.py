"""Workers of benches/test_start.py: meet, measure their memory, and return."""

from __future__ import annotations

import time

import torch

from asyncopt import Worker
from benches.memory import anonymous_bytes

PATIENCE = 60.0  # s


def meet(rank: int, weights: torch.Tensor) -> None:
    """Write this process's bytes to its place, as soon as all are there."""
    weights[rank] = 1
    deadline = time.monotonic() + PATIENCE
    while not bool(weights.all()):
        if time.monotonic() > deadline:
            raise TimeoutError("expected all workers to start")
        time.sleep(1e-3)
    weights[rank] = anonymous_bytes()


def meet_ours(worker: Worker, weights: torch.Tensor) -> None:
    """The same."""
    meet(worker.rank, weights)
