"""Graph cuts: an organ in a scan, told from what is around it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asyncopt import _core
from asyncopt.studies.measures import Measure, four_digits
from asyncopt.studies.sparse.linear import percent
from asyncopt.studies.sparse.peers.cuts import MaximumFlow
from asyncopt.studies.sparse.plan import Plan
from asyncopt.studies.sparse.subject import Settings, Subject, in_order

SCALE, QUICK_SCALE = 2e-4, 2e-5  # of the scan's 144 million voxels


class Scan(NamedTuple):
    """Voxels to be cut in two.

    Attributes:
        X: weights of the edges between neighbours, symmetric.
        y: classes, -1 where they are to be told.
        truth: of all.
    """

    X: Any
    y: NDArray[Any]
    truth: NDArray[Any]


class Cuts(Subject):
    """The least cut of a graph between what is surely the organ and what surely is not."""

    name = "cuts"
    title = "Graph cut, shaped like the scan of an abdomen"
    about = (
        "The cut of least weight between the inside of an organ and what is around it, in a "
        "made-up scan of 29,000 voxels (3,000 with --quick), each joined to its six neighbours: by "
        "stochastic steps on the relaxed problem, whose shares are then rounded. maximum_flow "
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

    def load(self, plan: Plan) -> Scan:
        """Made up."""
        from asyncopt.sparse import make_graph_like

        scale = QUICK_SCALE if plan.quick else SCALE
        graph = make_graph_like("abdomen", scale=scale, seed=plan.seed)
        return Scan(*graph.problem(), graph.truth)

    def fit(self, data: Scan, sync: str, workers: int, settings: Settings) -> Any:
        """Which voxels are the organ's."""
        from asyncopt.sparse import GraphCut

        model = GraphCut(
            eta0=settings.lr,
            max_iter=settings.epochs,
            tol=None,
            sync=sync,
            n_threads=workers,
            random_state=settings.seed,
        )
        return model.fit(data.X, data.y).transduction_

    def score(self, data: Scan, model: NDArray[Any]) -> dict[str, float]:
        """Of classes, ours and the exact ones alike."""
        told = data.y == -1
        tails, heads = data.X.nonzero()
        weights = np.asarray(data.X[tails, heads], np.float64).ravel()
        return {
            "test_error": float(np.mean(model[told] != data.truth[told])),
            "cut": float(weights[model[tails] != model[heads]].sum() / 2),  # each edge twice
        }
