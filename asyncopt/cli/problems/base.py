"""What every problem has, and how its workers report progress while they run."""

from __future__ import annotations

from typing import Protocol

import torch

from asyncopt.cli.plan import Plan
from asyncopt.cli.results import Row

_LINE = 8  # int64 per cache line: each worker counts on a line of its own


class Meter:
    """Progress of one launch: workers add, the parent reads.

    counts: int64 (workers * 8,) in memory that worker processes share.
    """

    def __init__(self, workers: int, total: int) -> None:
        self.total = max(total, 1)
        self.counts = torch.zeros(workers * _LINE, dtype=torch.int64)
        self.counts.share_memory_()

    @property
    def fraction(self) -> float:
        """Done so far, from 0 to 1."""
        return min(float(self.counts.sum()) / self.total, 1.0)


class Ticker:
    """A worker's end of a `Meter`; a tick costs about 0.1 us."""

    def __init__(self, counts: torch.Tensor, rank: int) -> None:
        self._counts = counts.numpy()  # a view; indexing it is far cheaper than the tensor's
        self._place = rank * _LINE

    def tick(self, steps: int = 1) -> None:
        """Count `steps` as done."""
        self._counts[self._place] += steps


class Problem(Protocol):
    """Something that can be measured under every variant with a given number of workers."""

    @property
    def name(self) -> str:
        """What ``--problem`` calls it."""

    @property
    def title(self) -> str:
        """Heading of its table."""

    @property
    def about(self) -> str:
        """One sentence on what is trained, for the report."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules outside asyncopt's own requirements."""

    def steps(self, plan: Plan, workers: int) -> int:
        """Ticks that all workers of one launch make together."""

    def cost(self, plan: Plan, workers: int) -> float:
        """Rough seconds that `measure` takes; weighs the progress bar."""

    def measure(self, plan: Plan, workers: int, meter: Meter) -> list[Row]:
        """All variants and repeats with `workers` workers, in one launch."""
