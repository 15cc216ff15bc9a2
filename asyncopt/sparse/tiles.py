"""Ratings in tiles: the entries of one group of users and one group of items lie together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt.sparse.matrices import narrow

__all__ = ["Tiles"]

CACHE = 1 << 19
"""Bytes of a group's factors, so that those of a tile stay in a core's second-level cache."""
FEWEST, MOST = 16, 128
"""Groups: so many threads can work on tiles that share nothing; a tile's number fits 16 bits."""


class Tiles:
    """A copy of a matrix's entries, tile by tile and at random in each.

    Args:
        ratings: in coordinates, scipy's coo of shape (users, items).
        row_bytes: of the factors of one user or item.
        random: shuffles; the same seed gives the same tiles.

    Raises:
        ValueError: a rating is too large for float32.

    Attributes:
        users, items: int32 of shape (entries,).
        values: float32 of that shape.
        groups: of the users, and of the items.
        begin: of each tile, int64 of shape (groups ** 2 + 1,).
    """

    def __init__(self, ratings: Any, row_bytes: int, random: np.random.RandomState) -> None:
        needed = -(-max(ratings.shape) * row_bytes // CACHE)
        self.groups = int(min(max(needed, FEWEST), MOST))
        rows, columns = ratings.coords
        shuffled = random.permutation(ratings.nnz)
        users, items = (
            _groups(numbers, size, self.groups, random)[numbers[shuffled]]
            for numbers, size in zip((rows, columns), ratings.shape, strict=True)
        )
        tiles = users.astype(np.uint16) * np.uint16(self.groups) + items
        order = shuffled[np.argsort(tiles, kind="stable")]
        self.begin = np.zeros(self.groups**2 + 1, np.int64)
        np.cumsum(np.bincount(tiles, minlength=self.groups**2), out=self.begin[1:])
        self.users = rows[order].astype(np.int32)
        self.items = columns[order].astype(np.int32)
        self.values = narrow("X", ratings.data)[order]

    def __len__(self) -> int:
        return len(self.values)

    def order(self, random: np.random.RandomState) -> npt.NDArray[np.int64]:
        """All tiles, diagonal by diagonal: ``groups`` of them in a row share no user or item."""
        users = random.permutation(self.groups)
        shifts = random.permutation(self.groups)[:, np.newaxis]
        return (users * self.groups + (users + shifts) % self.groups).astype(np.int64).ravel()


def _groups(
    numbers: npt.NDArray[Any], size: int, groups: int, random: np.random.RandomState
) -> npt.NDArray[np.uint16]:
    """The group of each of ``size`` users or items; all groups have about as many entries."""
    counts = np.bincount(numbers, minlength=size)
    there = np.concatenate([np.arange(groups), np.arange(groups)[::-1]])
    mixed = random.permutation(size)
    by_count = mixed[np.argsort(-counts[mixed], kind="stable")]
    group = np.empty(size, np.uint16)
    group[by_count] = np.resize(there, size)
    return group
