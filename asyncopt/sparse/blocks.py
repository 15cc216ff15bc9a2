"""Blocks of consecutive rows, in which a pass hands out examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from asyncopt import _core
from asyncopt.sparse.examples import parts

__all__ = ["BAD", "Blocks", "without_conflicts"]

LARGEST = 512
"""Rows: 40 us of work on text, so that taking one costs nothing, and few enough to shuffle."""
SMALLEST = 64
"""Under ``sync="ordered"``, where threads wait for each other after each."""
FEWEST = 64
"""Blocks, where there are as many rows: fewer would be visited in much the same order again."""
SAMPLED = 16
"""Blocks by which a size is judged."""
GOOD, BAD = 1 / 4, 1 / 2
"""Parts of a block that no two threads can share: 4 threads are busy, and hardly 2."""


class Blocks(NamedTuple):
    """Blocks of consecutive rows.

    Attributes:
        rows: in each, but for the last.
        pieces: under ``sync="ordered"`` where the pieces without a common column begin.
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
    """Group the examples of each block so that threads may step on the groups at once.

    Blocks are halved until the longest piece of each is short beside it. Nothing here depends on
    the number of threads.

    Args:
        X: a canonical matrix, checked by `ColumnSums.add`.
        order: the rows to visit, in their order.
        blocks: the largest.
        threads: that look for conflicts.

    Returns:
        The order with each block's pieces one after the other; the blocks; and the longest pieces'
        part in all entries, 1 where every block hangs together.
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
