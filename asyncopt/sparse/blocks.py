"""Blocks of consecutive rows: the units of work that threads take in a pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.examples import parts

__all__ = ["BAD", "Blocks", "without_conflicts"]

LARGEST = 512
"""Rows: 40 us of work on text, so taking a block is cheap, and there are few enough to shuffle."""
SMALLEST = 64
"""Under ``sync="ordered"``, where threads wait for each other after each block."""
FEWEST = 64
"""Minimum number of blocks, if there are as many rows: fewer give too similar orders."""
SAMPLED = 16
"""Number of blocks on which a size is tested."""
GOOD, BAD = 1 / 4, 1 / 2
"""Longest piece's share of its block: GOOD keeps 4 threads busy, BAD barely 2."""


class Blocks(NamedTuple):
    """Blocks of consecutive rows.

    Attributes:
        rows: rows in each block except the last.
        pieces: under ``sync="ordered"``, starts of the pieces that share no column.
    """

    rows: int
    pieces: npt.NDArray[np.int64] | None = None

    @classmethod
    def of(cls, examples: int, shuffled: bool) -> Blocks:
        """Blocks for a number of examples, shuffled between passes or not."""
        rows = max(examples // FEWEST, 1) if shuffled else max(examples, 1)
        return cls(min(rows, LARGEST))


def without_conflicts(
    X: Any, order: npt.NDArray[np.int64], blocks: Blocks, threads: int
) -> tuple[npt.NDArray[np.int64], Blocks, float]:
    """Group the examples of each block so that threads may process the groups in parallel.

    Blocks are halved until the longest piece is short compared to its block. The result does not
    depend on the number of threads.

    Args:
        X: a canonical matrix, checked by `ColumnSums.add`.
        order: the rows to visit, in order.
        blocks: the largest blocks to try.
        threads: number of threads that look for conflicts.

    Returns:
        The order with each block's pieces one after the other; the blocks; and the longest pieces'
        share of all entries, 1 if every block is a single piece.
    """
    begin, columns, _ = parts(X)

    def find(rows: npt.NDArray[np.int64], size: int) -> Any:
        return _core.find_conflicts(begin, columns, X.shape[1], rows, size, threads)

    sizes = [max(blocks.rows, min(SMALLEST, len(order)), 1)]
    while sizes[-1] // 2 >= SMALLEST:
        sizes.append(sizes[-1] // 2)
    longest = [find(order[: SAMPLED * size], size)[2] for size in sizes]
    good = [size for size, part in zip(sizes, longest, strict=True) if part <= GOOD]
    size = good[0] if good else sizes[int(np.argmin(longest))]
    order, pieces, part = find(order, size)
    return order, Blocks(size, pieces), part
