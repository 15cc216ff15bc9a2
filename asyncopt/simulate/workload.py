"""Workload: cache lines of a push, and compute time between pushes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Stretch(NamedTuple):
    """Neighbouring lines that one event stands for: a number of its own, and how many lines."""

    place: int
    lines: int


@dataclass(frozen=True)
class Workload:
    """A vector of parameters and what a push touches of it.

    Attributes:
        lines: cache lines of the vector (16 float32 each).
        touched: lines that a push touches; as many as there are: dense, all of them in order.
            Fewer: so many different ones, drawn anew for each push, in the order of memory.
        compute: mean seconds of computing between two pushes, besides ``Costs.call``.
        skew: how popular lines are: line r is drawn with weight ``1 / (r + 1)**skew``. 0: alike;
            1: the law of words and clicks.
        jitter: standard deviation over mean of the private time between two pushes, which is
            gamma distributed (1: exponential).
        stripe_lines: lines under one lock of `striped`.
        stretches: into how many events a dense push is cut, at most; more are finer.

    Raises:
        ValueError: one of them is out of range.
    """

    lines: int
    touched: int
    compute: float = 0.0
    skew: float = 0.0
    jitter: float = 0.1
    stripe_lines: int = 1
    stretches: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.touched <= self.lines:
            raise ValueError(f"touched: expected 1 to {self.lines} lines, got {self.touched}")
        for name in ("compute", "skew", "jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected a number >= 0, got {getattr(self, name)}")
        for name in ("stripe_lines", "stretches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def is_dense(self) -> bool:
        """True if every push touches every line."""
        return self.touched == self.lines

    @property
    def places(self) -> int:
        """Number of distinct stretches."""
        return len(self._whole) if self.is_dense else self.lines

    def draw(self, dice: np.random.Generator) -> list[Stretch]:
        """Stretches that the next push touches, in the order of memory."""
        if self.is_dense:
            return self._whole
        # Drawn again and again, without those seen before: as from what is left.
        seen: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        while len(seen) < self.touched:
            more = np.searchsorted(self._chances, dice.random(4 * self.touched), side="right")
            both = np.concatenate((seen, more))
            seen = both[np.sort(np.unique(both, return_index=True)[1])]
        return [Stretch(int(line), 1) for line in np.sort(seen[: self.touched])]

    def private(self, seconds: float, dice: np.random.Generator) -> float:
        """`seconds` as long as they take this time."""
        if self.jitter == 0:
            return seconds
        shape = self.jitter**-2
        return float(seconds * dice.gamma(shape) / shape)

    @cached_property
    def _whole(self) -> list[Stretch]:
        edges = np.linspace(0, self.lines, min(self.stretches, self.lines) + 1).astype(int)
        return [Stretch(place, int(n)) for place, n in enumerate(np.diff(edges))]

    @cached_property
    def _chances(self) -> npt.NDArray[np.float64]:
        """Cumulative probability of each line."""
        sums = np.cumsum(1.0 / np.arange(1, self.lines + 1) ** self.skew)
        return np.asarray(sums[:-1] / sums[-1])
