"""Synthetic ratings and graphs: documented shapes, and structure that can be learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from asyncopt.sparse import Graph, make_graph_like, make_ratings_like
from asyncopt.sparse.data.graphs import ENTITIES, MENTIONS
from asyncopt.sparse.data.ratings import RATINGS, low_rank, popular


@pytest.mark.parametrize("name", sorted(RATINGS))
def test_ratings_have_the_shape_of_the_set(name: str) -> None:
    shape, scale = RATINGS[name], 1e-4 if name == "jumbo" else 1e-3
    ratings = make_ratings_like(name, scale=scale, seed=3)
    again = make_ratings_like(name, scale=scale, seed=3)
    for part in ("row", "col", "data"):
        np.testing.assert_array_equal(getattr(ratings, part), getattr(again, part))
    assert (make_ratings_like(name, scale=scale, seed=4).col != ratings.col).any()
    assert ratings.nnz == round(shape.ratings * scale)
    share = ratings.nnz / np.prod(ratings.shape)
    assert share == pytest.approx(shape.ratings / shape.users / shape.items, rel=0.01)
    pairs = ratings.row.astype(np.int64) * ratings.shape[1] + ratings.col
    assert (np.diff(pairs) > 0).all()
    assert ratings.data.dtype == np.float32
    assert ratings.row.dtype == ratings.col.dtype == np.int32
    if shape.scale is not None:
        low, high = shape.scale
        assert set(np.unique(ratings.data)) <= set(range(low, high + 1))
        assert ratings.data.mean() == pytest.approx(shape.mean, abs=0.05 * (high - low))


def test_the_model_has_its_rank_and_ratings_their_spread() -> None:
    grid = np.divmod(np.arange(200 * 300), 300)
    z = low_rank(np.random.default_rng(0), *grid, (200, 300), 10).reshape(200, 300)
    values = np.linalg.svd(z, compute_uv=False)
    assert values[9] > 1
    assert values[10] < 1e-3
    assert z.var() == pytest.approx(1, abs=0.1)
    stars = make_ratings_like("netflix", scale=1e-3, seed=1)
    assert stars.data.std() == pytest.approx(1.085, abs=0.1)  # the real ones'


@pytest.mark.parametrize("peak", [1, 6, 41])
def test_popularity(peak: float) -> None:
    """The density is the documented one: most frequent, median and least frequent ranks."""
    draws = popular(np.random.default_rng(0), 2_000_000, 1000, peak)
    counts = np.bincount(draws, minlength=1000) / 2000
    if peak == 1:
        assert abs(counts - 1).max() < 0.12
        return
    offset = 1 / (peak - 1)
    for rank in (0, 500, 999):
        x = (rank + 0.5) / 1000
        expected = offset * (1 + offset) / (x + offset) ** 2
        assert counts[max(rank - 2, 0) : rank + 3].mean() == pytest.approx(expected, rel=0.12)


def test_the_most_frequent_item_has_its_share() -> None:
    """2.3e-3 of Netflix' ratings are of one movie: Delta in the paper's table."""
    shape = RATINGS["netflix"]
    draws = popular(np.random.default_rng(0), 1_000_000, shape.items, shape.item_peak)
    assert (draws == 0).mean() == pytest.approx(2.3e-3, rel=0.1)


def check(graph: Graph) -> None:
    assert graph.edges.dtype == np.int32
    assert graph.weights.dtype == np.float32
    assert graph.edges.shape == (len(graph.weights), 2)
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    assert graph.edges.min() >= 0
    assert graph.edges.max() < graph.nodes
    assert len(np.unique(graph.edges, axis=0)) == len(graph.edges)
    assert (graph.weights > 0).all()
    assert len(graph.truth) == graph.nodes
    np.testing.assert_array_equal(graph.truth[graph.terminals], graph.terminal_labels)
    assert (np.diff(graph.terminals) > 0).all()
    assert set(np.unique(graph.truth)) <= set(range(graph.labels))


def test_a_scan() -> None:
    graph = make_graph_like("abdomen", seed=2)
    check(graph)
    a, b, c = 51, 51, 55
    assert graph.nodes == a * b * c
    assert len(graph.weights) == (a - 1) * b * c + a * (b - 1) * c + a * b * (c - 1)
    assert graph.weights.max() <= 10
    assert set(graph.terminal_labels.tolist()) == {0, 1}
    assert 0.02 < graph.truth.mean() < 0.5
    assert len(graph.terminals) < graph.nodes
    inside = graph.truth[graph.edges[:, 0]] == graph.truth[graph.edges[:, 1]]
    assert graph.weights[inside].mean() > 2 * graph.weights[~inside].mean()


def test_names() -> None:
    graph = make_graph_like("dblife", seed=2)
    check(graph)
    assert graph.nodes == ENTITIES + MENTIONS == 198_277
    assert graph.labels == len(graph.terminals) == ENTITIES
    touched = np.bincount(graph.edges.ravel())
    assert touched[:ENTITIES].max() / len(graph.edges) == pytest.approx(4.3e-3, rel=0.5)
    small = make_graph_like("dblife", scale=0.01)
    assert small.labels == 182
    check(small)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_ratings_like("rcv1"), "name: expected one of 'netflix', 'kdd', 'jumbo'"),
        (
            lambda: make_ratings_like("kdd", scale=2),
            "scale: expected a finite number",
        ),
        (lambda: make_ratings_like("kdd", scale=0), "scale: expected at least 4e-09, got 0"),
        (lambda: make_ratings_like("kdd", seed=-1), "seed: expected an integer >= 0"),
        (lambda: make_graph_like("kdd"), "name: expected one of 'abdomen', 'dblife'; got 'kdd'"),
        (
            lambda: make_graph_like("abdomen", scale=1e-9),
            "scale: expected at least 4e-06",
        ),
        (
            lambda: make_graph_like("dblife", scale=1e-9),
            "scale: expected at least 2e-04",
        ),
    ],
)
def test_bad_arguments(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
