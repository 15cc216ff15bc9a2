"""Made-up graphs in the shape of well-known ones, for cuts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from asyncopt._checks import one_of, real, whole
from asyncopt.sparse.data.ratings import popular

__all__ = ["Graph", "make_graph_like"]


@dataclass(frozen=True)
class Graph:
    """An undirected graph to be cut between terminals.

    A cut gives every node a label, terminals their own; it costs the weights of edges between nodes
    of different labels. Relaxed, as in arXiv 1106.5730, a node has a point x of a simplex, and an
    edge costs ``weight * |x[a] - x[b]|_1 / 2``.

    Attributes:
        nodes: how many.
        labels: how many.
        edges: two nodes each, the lower first; int32 of shape (edges, 2).
        weights: of the edges, positive; float32 of shape (edges,).
        terminals: the nodes whose label is known, rising; int32 of shape (terminals,).
        terminal_labels: int32 of that shape.
        truth: the labels that the graph was made from; int32 of shape (nodes,).
    """

    nodes: int
    labels: int
    edges: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    terminals: npt.NDArray[np.int32]
    terminal_labels: npt.NDArray[np.int32]
    truth: npt.NDArray[np.int32]

    def problem(self) -> tuple[Any, npt.NDArray[np.int32]]:
        """Arguments of `GraphCut.fit`.

        Returns:
            The weights as a symmetric matrix, float32, scipy's csr of shape (nodes, nodes); and the
            terminals' labels, -1 for the other nodes, int32 of shape (nodes,).
        """
        there = sparse.coo_array((self.weights, self.edges.T), shape=(self.nodes, self.nodes))
        labels = np.full(self.nodes, -1, np.int32)
        labels[self.terminals] = self.terminal_labels
        return (there + there.T).tocsr(), labels


# arXiv 1106.5730, section 7.
ABDOMEN = (512, 512, 551)
CAPACITY = 10.0
ENTITIES, MENTIONS = 18_167, 180_110
DBLIFE_PEAK = 78.0
"""Mentions of the most frequent entity over the mean: the paper's Delta, 4.3e-3, times entities."""


def make_graph_like(name: str, *, scale: float | None = None, seed: int = 0) -> Graph:
    """A graph in the shape of one of the Hogwild! paper's.

    Args:
        name: ``"abdomen"``, voxels of a scan, each joined to its 6 neighbours with a capacity of at
            most 10, to be cut in two: an organ and what is around it; or ``"dblife"``, names found
            on the web, joined to the names of entities that they resemble and to one another: each
            is to be given to one of 18,167 entities. (The paper tells no number of edges; three a
            name is our choice.)
        scale: share of the set's nodes. By default all of dblife, 198,277; and 1 / 1000 of abdomen,
            which in all has 144 million nodes and 432 million edges, 6 GB.
        seed: of everything random.

    Raises:
        ValueError: an argument is wrong.
    """
    one_of("name", name, ("abdomen", "dblife"))
    if scale is None:
        scale = 1.0 if name == "dblife" else 1e-3
    real("scale", scale, 0, 1)
    whole("seed", seed, 0)
    random = np.random.default_rng(seed)
    if name == "abdomen":
        sides = tuple(round(side * math.cbrt(scale)) for side in ABDOMEN)
        if min(sides) < 8:
            raise ValueError(f"scale: expected at least 4e-06, 8 voxels a side, got {scale!r}")
        return _scan(random, sides)
    if round(ENTITIES * scale) < 2:
        raise ValueError(f"scale: expected at least 2e-04, some entities, got {scale!r}")
    return _names(random, round(ENTITIES * scale), round(MENTIONS * scale))


def _scan(random: np.random.Generator, sides: tuple[int, ...]) -> Graph:
    """An ellipsoid, brighter than what is around it, in noise."""
    axes = np.ogrid[tuple(slice(-1, 1, complex(side)) for side in sides)]
    center = random.uniform(-0.2, 0.2, 3)
    radii = random.uniform(0.6, 0.8, 3)
    distance = sum(
        ((axis - middle) / radius) ** 2
        for axis, middle, radius in zip(axes, center, radii, strict=True)
    ).astype(np.float32)
    organ = distance < 1
    image = random.standard_normal(sides, np.float32)
    image *= np.float32(0.25)
    image += organ
    number = np.arange(organ.size, dtype=np.int32).reshape(sides)
    edges, weights = [], []
    for axis in range(3):
        head = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        tail = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        edges.append(np.stack([number[head].ravel(), number[tail].ravel()], axis=1))
        contrast = (image[head] - image[tail]).ravel()
        weights.append(CAPACITY * np.exp(-(contrast**2) / np.float32(0.5)))
    seeds = (distance < 0.1) | (distance > 3)
    terminals = np.flatnonzero(seeds).astype(np.int32)
    truth = organ.ravel().astype(np.int32)
    return Graph(
        nodes=organ.size,
        labels=2,
        edges=np.concatenate(edges),
        weights=np.concatenate(weights).astype(np.float32),
        terminals=terminals,
        terminal_labels=truth[terminals],
        truth=truth,
    )


def _names(random: np.random.Generator, entities: int, mentions: int) -> Graph:
    """Entities, then mentions: like their own entity, a little like another, and one another."""
    known = random.permutation(entities)  # by rank
    own = known[popular(random, mentions, entities, DBLIFE_PEAK)]
    other = known[popular(random, mentions, entities, DBLIFE_PEAK)]
    mention = np.arange(entities, entities + mentions)
    unlike = other != own
    order = np.argsort(own, kind="stable")
    kin = np.flatnonzero(own[order[1:]] == own[order[:-1]])
    pairs = [
        (own, mention, 0.6, 1.0),
        (other[unlike], mention[unlike], 0.1, 0.5),
        (mention[order[kin]], mention[order[kin + 1]], 0.3, 0.9),
    ]
    edges = [np.stack([low, high], axis=1).astype(np.int32) for low, high, _, _ in pairs]
    weights = [random.uniform(least, most, len(low)) for low, _, least, most in pairs]
    itself = np.arange(entities, dtype=np.int32)
    return Graph(
        nodes=entities + mentions,
        labels=entities,
        edges=np.concatenate(edges),
        weights=np.concatenate(weights).astype(np.float32),
        terminals=itself,
        terminal_labels=itself,
        truth=np.concatenate([itself, own]).astype(np.int32),
    )
