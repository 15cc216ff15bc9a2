"""From shares of every vertex in every class to one class each: the least cut that is found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["cut_of", "objective_of", "rounded"]

DRAWS = 64
"""Random roundings of three classes or more."""

_Labels = npt.NDArray[np.int64]
_Shares = npt.NDArray[np.float32]


def cut_of(edges: Any, labels: _Labels) -> float:
    """The weight of the edges between vertices of different classes.

    Args:
        edges: their weights in coordinates, scipy's coo of shape (vertices, vertices).
        labels: of the vertices.
    """
    tails, heads = edges.coords
    return float(edges.data[labels[tails] != labels[heads]].sum())


def objective_of(edges: Any, shares: _Shares) -> float:
    """The relaxed cut: the sum over the edges of weight ``|x_u - x_v|_1 / 2``.

    Args:
        edges: as in `cut_of`.
        shares: of shape (vertices, classes).
    """
    tails, heads = edges.coords
    distances = np.zeros(edges.nnz)
    for column in shares.T:  # one at a time: all together may not fit in memory
        distances += np.abs(column[tails] - column[heads])
    return float(edges.data @ distances / 2)


def rounded(edges: Any, shares: _Shares, random: np.random.RandomState) -> _Labels:
    """The classes of the vertices, by their greatest shares or by a threshold; the least cut.

    Of two classes all thresholds are tried, so that the cut is at most the relaxed one. Of more, a
    threshold and an order of the classes are drawn: each takes in turn the vertices that are left
    and whose share in it is above the threshold, and the last one the rest. The mean of such cuts
    is less than 1.5 times the relaxed one (Calinescu, Karloff and Rabani, STOC 1998).

    Args:
        edges: as in `cut_of`.
        shares: of shape (vertices, classes); a vertex that has a share of 1 stays in that class.
        random: draws.
    """
    return min(_candidates(edges, shares, random), key=lambda labels: cut_of(edges, labels))


def _candidates(edges: Any, shares: _Shares, random: np.random.RandomState) -> Iterator[_Labels]:
    yield shares.argmax(axis=1)
    classes = shares.shape[1]
    if classes == 2:
        yield (shares[:, 0] <= _best_threshold(edges, shares[:, 0])).astype(np.int64)
    elif classes > 2:
        for _ in range(DRAWS):
            threshold, order = random.random_sample(), random.permutation(classes)
            labels = np.full(len(shares), order[-1])
            for label in order[-2::-1]:
                labels[shares[:, label] > threshold] = label
            yield labels


def _best_threshold(edges: Any, share: npt.NDArray[np.float32]) -> float:
    """Threshold in [0, 1) at which the cut is least.

    An edge is cut by the thresholds from its lower share up to its higher one.
    """
    ends = np.sort([share[vertices] for vertices in edges.coords], axis=0)
    levels, at = np.unique(ends.ravel(), return_inverse=True)
    cuts = np.cumsum(np.bincount(at, np.concatenate([edges.data, -edges.data]), len(levels)))
    below = levels < 1
    return float(levels[below][cuts[below].argmin()]) if below.any() else 0.0
