"""Rounding of shares to classes: near ties, where the greatest share is a bad choice."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse

from asyncopt.sparse.rounding import cut_of, objective_of, rounded

Floats = npt.NDArray[np.float32]


def nearly_alike(classes: int, low: float = 0.49) -> tuple[Any, Floats]:
    """A ladder between two labels of vertices that lean to one and the other in turn."""
    vertices = 22
    tails = np.arange(vertices - 1)
    edges = sparse.coo_array((np.ones(vertices - 1), (tails, tails + 1)), shape=(vertices,) * 2)
    shares = np.zeros((vertices, classes), np.float32)
    shares[:, 0] = np.where(np.arange(vertices) % 2, low, 1 - low)
    shares[:, 1] = 1 - shares[:, 0]
    shares[0, :2], shares[-1, :2] = (1, 0), (0, 1)
    return edges, shares


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_threshold_is_better_than_the_greatest_share(classes: int) -> None:
    edges, shares = nearly_alike(classes)
    assert objective_of(edges, shares) == pytest.approx(0.49 + 19 * 0.02 + 0.51, abs=0.03)
    assert cut_of(edges, shares.argmax(axis=1)) > 15
    for seed in range(5):
        found = rounded(edges, shares, np.random.RandomState(seed))
        assert cut_of(edges, found) == 1
        assert (found[0], found[-1]) == (0, 1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_all_alike(share: float) -> None:
    """Also at the ends of what a threshold may be."""
    edges, shares = nearly_alike(2, 1 - share)
    shares[:, 0], shares[:, 1] = share, 1 - share
    found = rounded(edges, shares, np.random.RandomState(0))
    assert (found == found[0]).all()
    if share in (0, 1):
        assert found[0] == 1 - share


def test_the_best_of_two_classes_costs_at_most_what_was_rounded() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        edges = sparse.triu(sparse.random_array((30, 30), density=0.2, rng=random), 1).tocoo()
        one = random.random((30, 1), np.float32) * (random.random((30, 1)) < 0.9)
        shares = np.hstack([one, 1 - one]).astype(np.float32)
        found = rounded(edges, shares, np.random.RandomState(0))
        least = min(cut_of(edges, (one[:, 0] <= at).astype(np.int64)) for at in one[one < 1])
        assert cut_of(edges, found) == pytest.approx(least)
        assert least <= objective_of(edges, shares) * (1 + 1e-6)
