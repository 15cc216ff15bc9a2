"""Graph cuts: an organ in a scan, separated from its surroundings."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asyncopt import _core
from asyncopt.report.text import four_digits
from asyncopt.studies.rows import Measure
from asyncopt.studies.sparse.linear import percent
from asyncopt.studies.sparse.peers import MaximumFlow
from asyncopt.studies.sparse.problem import Settings, SparseComparison, SparseProblem, in_order

SCALE, QUICK_SCALE = 2e-4, 2e-5  # of the scan's 144 million voxels


class Scan(NamedTuple):
    """Voxels to be cut in two.

    Attributes:
        X: weights of the edges between neighbours, symmetric.
        y: classes, -1 where they are to be predicted.
        truth: of all.
    """

    X: Any
    y: NDArray[Any]
    truth: NDArray[Any]


class Cuts(SparseProblem):
    """The least cut of a graph between labelled voxels of an organ and of its surroundings."""

    name = "cuts"
    title = "Graph cut, shaped like the scan of an abdomen"
    about = (
        "The cut of least weight between the inside of an organ and its surroundings, in a "
        "synthetic scan of 29,000 voxels (3,000 with --quick), each joined to its six neighbours: "
        "by stochastic steps on the relaxed problem, whose shares are then rounded. maximum_flow "
        "finds the least cut exactly, in one call."
    )
    syncs = in_order(_core.cut_syncs())
    epochs, quick_epochs = 300, 100
    lr = 1.0
    seconds = 0.005
    measures = (
        Measure("test_error", "test error", "share of wrong unlabelled voxels", percent),
        Measure("cut", "cut", "weight of the edges between voxels of two classes", four_digits),
    )
    libraries = (MaximumFlow(),)

    def load(self, plan: SparseComparison) -> Scan:
        """Synthetic."""
        from asyncopt.sparse import make_graph_like

        scale = QUICK_SCALE if plan.quick else SCALE
        graph = make_graph_like("abdomen", scale=scale, seed=plan.seed)
        return Scan(*graph.problem(), graph.truth)

    def fit(self, data: Scan, sync: str, workers: int, settings: Settings) -> Any:
        """The voxels of the organ."""
        from asyncopt.sparse import GraphCut

        model = GraphCut(
            **settings.estimator(sync, workers),
        )
        return model.fit(data.X, data.y).transduction_

    def score(self, data: Scan, model: NDArray[Any]) -> dict[str, float]:
        """Scores of classes, ours and the exact ones alike."""
        unlabelled = data.y == -1
        tails, heads = data.X.nonzero()
        weights = np.asarray(data.X[tails, heads], np.float64).ravel()
        return {
            "test_error": float(np.mean(model[unlabelled] != data.truth[unlabelled])),
            "cut": float(weights[model[tails] != model[heads]].sum() / 2),  # each edge twice
        }
