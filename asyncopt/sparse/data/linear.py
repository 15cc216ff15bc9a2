"""Made-up examples in the shape of a well-known set, for linear models."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from asyncopt._checks import one_of, whole

__all__ = ["SHAPES", "make_like"]


class Shape(NamedTuple):
    """Shape of a data set: size, mean entries of a row, skew of the columns.

    Column u is drawn in proportion to ``1 / (u + offset) ** skew``; the number of entries of a row
    is log-normal with the standard deviation ``spread`` of its logarithm.
    """

    rows: int
    columns: int
    entries: float
    offset: float
    skew: float
    spread: float


SHAPES = {
    # Lewis et al., JMLR 2004: 804,414 x 47,236 in all, 76 entries a row.
    "rcv1": Shape(200_000, 47_236, 73.0, 20.0, 1.0, 0.6),
}
DRAWS = 1.2
"""Draws for each entry, at first: repetitions are added up."""
NOISE = 0.05
"""Share of labels that are the wrong ones."""


def make_like(
    name: str = "rcv1", *, rows: int | None = None, columns: int | None = None, seed: int = 0
) -> tuple[Any, npt.NDArray[np.int64]]:
    """Examples of the shape of a well-known set, labelled by a linear model with some noise.

    Args:
        name: ``"rcv1"``: newswire as TF-IDF, rows of norm 1, columns that follow a power law.
        rows: by default 200,000.
        columns: by default the set's.
        seed: of everything random.

    Returns:
        X, float32 in CSR format with int32 indices, and labels -1 or 1, int64 of shape (rows,).

    Raises:
        ValueError: an argument is wrong.
    """
    one_of("name", name, tuple(SHAPES))
    shape = SHAPES[name]
    rows = shape.rows if rows is None else rows
    columns = shape.columns if columns is None else columns
    whole("rows", rows, 1)
    whole("columns", columns, 2)
    random = np.random.default_rng(seed)
    odds = 1 / (np.arange(columns) + shape.offset) ** shape.skew
    odds /= odds.sum()
    rank = random.permutation(columns).astype(np.int32)  # of a column by how often it is drawn

    # Drawn with repetition, of which the frequent columns get many: that is made up for.
    distinct = (1 - np.exp(-odds * shape.entries * DRAWS)).sum() / shape.entries
    draws = shape.entries * DRAWS / distinct
    lengths = random.lognormal(np.log(draws) - shape.spread**2 / 2, shape.spread, rows)
    begin = np.concatenate([[0], np.cumsum(np.maximum(lengths, 1).astype(np.int64))])
    drawn = np.searchsorted(np.cumsum(odds), random.random(begin[-1]), side="right")
    drawn = np.minimum(drawn, columns - 1)
    inverse_frequency = np.log1p(1 / (odds * shape.entries))
    values = (inverse_frequency[drawn] * random.uniform(0.5, 1.5, len(drawn))).astype(np.float32)
    X = sparse.csr_matrix((values, rank[drawn], begin), shape=(rows, columns))
    X.sum_duplicates()
    X.indptr = X.indptr.astype(np.int32) if X.nnz < 2**31 else X.indptr
    norms = np.sqrt(np.add.reduceat(X.data.astype(np.float64) ** 2, X.indptr[:-1]))
    X.data /= np.repeat(norms, np.diff(X.indptr)).astype(np.float32)

    teacher = random.standard_normal(columns) * (random.random(columns) < 0.1)
    margins = X @ teacher
    labels = np.where(margins > np.median(margins), 1, -1)
    return X, np.where(random.random(rows) < NOISE, -labels, labels).astype(np.int64)
