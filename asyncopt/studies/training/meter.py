"""How workers report progress while they run."""

from __future__ import annotations

import torch

from asyncopt.studies.training.memory import LINE, shared_zeros


class Meter:
    """Progress of one launch: workers add, the parent reads.

    counts: int64 (workers * 8,) in memory that worker processes share.
    """

    def __init__(self, workers: int, total: int) -> None:
        self.total = max(total, 1)
        self.counts = shared_zeros(workers * LINE)

    @property
    def fraction(self) -> float:
        """Done so far, from 0 to 1."""
        return min(float(self.counts.sum()) / self.total, 1.0)


class Ticker:
    """A worker's end of a `Meter`; a tick costs about 0.1 us."""

    def __init__(self, counts: torch.Tensor, rank: int) -> None:
        self._counts = counts.numpy()  # a view; indexing it is far cheaper than the tensor's
        self._place = rank * LINE

    def tick(self, steps: int = 1) -> None:
        """Count `steps` as done."""
        self._counts[self._place] += steps
