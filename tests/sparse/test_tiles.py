"""Tiles: every entry is in one, and the tiles of a round share nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from asyncopt.sparse.tiles import CACHE, Tiles, aligned


def made(size: int) -> Any:
    """Entries above the diagonal, as edges are and ratings may be; some rows have many."""
    random = np.random.default_rng(0)
    at = np.sort((size * random.random((2 * size, 2)) ** 2).astype(np.int64), axis=1)
    at = np.unique(at[at[:, 0] < at[:, 1]], axis=0)
    return sparse.coo_array((random.random(len(at)), tuple(at.T)), shape=(size, size))


@pytest.mark.parametrize("size", [1, 2, 5, 40, 3000])
@pytest.mark.parametrize("row_bytes", [64, CACHE // 10])
@pytest.mark.parametrize("kind", ["ratings", "edges"])
def test_tiles_of_a_round_share_nothing(size: int, row_bytes: int, kind: str) -> None:
    matrix = made(size)
    make = Tiles.of_edges if kind == "edges" else Tiles.of_ratings
    tiles = make(matrix, row_bytes, np.random.RandomState(0))
    there = sparse.coo_array((tiles.values, (tiles.rows, tiles.columns)), shape=matrix.shape)
    assert abs(there - matrix).sum() <= 1e-6 * matrix.nnz
    assert len(tiles) == matrix.nnz
    order = tiles.order(np.random.RandomState(1))
    assert sorted(order.tolist()) == list(range(tiles.groups**2))
    for one in order.reshape(-1, tiles.groups):
        parts = [slice(tiles.begin[tile], tiles.begin[tile + 1]) for tile in one]
        rows, columns = (
            [set(ends[part]) for part in parts] for ends in (tiles.rows, tiles.columns)
        )
        kinds = [rows, columns] if kind == "ratings" else [[*map(set.union, rows, columns)]]
        for of_tiles in kinds:
            assert sum(map(len, of_tiles)) == len(set().union(*of_tiles))


def test_aligned() -> None:
    for rows in (0, 1, 5):
        memory = aligned(rows, 32)
        assert memory.shape == (rows, 32)
        assert memory.ctypes.data % 64 == 0 or rows == 0
        assert (memory == 0).all()
