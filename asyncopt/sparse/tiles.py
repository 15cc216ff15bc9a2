"""Entries that name two rows each, in tiles: those of two groups of rows lie together."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt

from asyncopt.sparse.matrices import narrow

__all__ = ["Tiles", "aligned"]

CACHE = 1 << 19
"""Bytes of a group's rows, so that those of a tile stay in a core's second-level cache."""
FEWEST, MOST = 16, 128
"""Groups: so many threads can work on tiles that share nothing; a tile's number fits 16 bits."""


class Tiles:
    """A copy of a matrix's entries, tile by tile and at random in each.

    Tiles 0 to ``groups - 1`` are a round, so are the next, and so on: the tiles of a round share no
    group, so that threads can work on all of them at once.

    Args:
        matrix: in coordinates, scipy's coo.
        tiles: that of each entry, in [0, groups ** 2).
        groups: of the rows; even.
        random: shuffles; the same seed gives the same order.

    Raises:
        ValueError: a value is too large for float32.

    Attributes:
        rows, columns: int32 of shape (entries,).
        values: float32 of that shape.
        groups: as given.
        begin: of each tile, int64 of shape (groups ** 2 + 1,).
    """

    def __init__(
        self, matrix: Any, tiles: npt.NDArray[Any], groups: int, random: np.random.RandomState
    ) -> None:
        self.groups = groups
        shuffled = random.permutation(matrix.nnz)
        order = shuffled[np.argsort(tiles[shuffled].astype(np.uint16), kind="stable")]
        self.begin = np.zeros(groups**2 + 1, np.int64)
        np.cumsum(np.bincount(tiles, minlength=groups**2), out=self.begin[1:])
        rows, columns = matrix.coords
        self.rows = rows[order].astype(np.int32)
        self.columns = columns[order].astype(np.int32)
        self.values = narrow("X", matrix.data)[order]

    @classmethod
    def of_ratings(cls, ratings: Any, row_bytes: int, random: np.random.RandomState) -> Self:
        """Groups of users by groups of items, at random; a round is a diagonal of them.

        Args:
            ratings: of shape (users, items).
            row_bytes: of the factors of one user or item.
            random: as in the class.
        """
        groups = _groups(max(ratings.shape), row_bytes)
        users, items = (
            _even(numbers, size, groups, random)[numbers]
            for numbers, size in zip(ratings.coords, ratings.shape, strict=True)
        )
        return cls(ratings, (items - users) % groups * groups + users, groups, random)

    @classmethod
    def of_edges(cls, edges: Any, row_bytes: int, random: np.random.RandomState) -> Self:
        """Ranges of vertices, whose neighbours in number are often neighbours in the graph.

        A round is one of a tournament in which every range plays every other (the circle method:
        pairs of the same sum, modulo one less than there are; who would play itself plays the
        last), and one more has the edges within each.

        Args:
            edges: each once, from the lower vertex; of shape (vertices, vertices).
            row_bytes: of the shares of a vertex.
            random: as in the class.
        """
        groups = _groups(edges.shape[0], row_bytes)
        degrees = sum(np.bincount(ends, minlength=edges.shape[0]) for ends in edges.coords)
        before = np.cumsum(degrees) - degrees
        group = before * groups // max(2 * edges.nnz, 1)
        low, high = (group[ends] for ends in edges.coords)
        last = groups - 1
        meet = np.where(high == last, 2 * low, low + high) % last
        return cls(edges, np.where(low == high, last, meet) * groups + low, groups, random)

    def __len__(self) -> int:
        return len(self.values)

    def order(self, random: np.random.RandomState) -> npt.NDArray[np.int64]:
        """All tiles, round by round."""
        rounds = random.permutation(self.groups)[:, np.newaxis] * self.groups
        return (rounds + random.permutation(self.groups)).astype(np.int64).ravel()


def aligned(rows: int, stride: int) -> npt.NDArray[np.float32]:
    """Zeros of shape (rows, stride), of which each row begins at a cache line of its own.

    Args:
        rows: how many.
        stride: floats in a row, a multiple of 16.
    """
    memory = np.zeros(rows * stride + 16, np.float32)
    lost = -memory.ctypes.data // memory.itemsize % 16
    return memory[lost : lost + rows * stride].reshape(rows, stride)


def _groups(rows: int, row_bytes: int) -> int:
    return int(np.clip(-(-rows * row_bytes // (2 * CACHE)) * 2, FEWEST, MOST))


def _even(
    numbers: npt.NDArray[Any], size: int, groups: int, random: np.random.RandomState
) -> npt.NDArray[np.int32]:
    """The group of each of ``size`` users or items; all groups have about as many entries."""
    counts = np.bincount(numbers, minlength=size)
    there = np.concatenate([np.arange(groups), np.arange(groups)[::-1]])
    mixed = random.permutation(size)
    by_count = mixed[np.argsort(-counts[mixed], kind="stable")]
    group = np.empty(size, np.int32)
    group[by_count] = np.resize(there, size)
    return group
