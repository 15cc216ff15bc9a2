"""The least cut by a maximum flow, exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from asyncopt.studies.sparse.subject import Library, Settings

UNIT = 1e-5  # of weight: flows are integers
ENDLESS = 2**30


class MaximumFlow(Library):
    """scipy's (Dinic's algorithm), from all voxels of class 0 to all of class 1."""

    label = "maximum_flow"
    module = "scipy"
    threaded = False

    def prepare(self, data: Any) -> Any:
        """The network: the edges, and a source and a sink joined to what is labelled."""
        from scipy import sparse

        n, (tails, heads) = len(data.y), data.X.nonzero()
        of_source, of_sink = np.flatnonzero(data.y == 0), np.flatnonzero(data.y == 1)
        weights = np.rint(np.asarray(data.X[tails, heads]).ravel() / UNIT)
        endless = np.full(len(of_source) + len(of_sink), ENDLESS)
        capacities = np.concatenate([weights, endless]).astype(np.int32)
        tails = np.concatenate([tails, np.full(len(of_source), n), of_sink])
        heads = np.concatenate([heads, of_source, np.full(len(of_sink), n + 1)])
        return sparse.csr_array((capacities, (tails, heads)), shape=(n + 2, n + 2))

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """What is left of the capacities."""
        from scipy.sparse.csgraph import maximum_flow

        n = prepared.shape[0] - 2
        return prepared - maximum_flow(prepared, n, n + 1).flow

    def judged(self, fitted: Any, data: Any) -> Any:
        """Class 0 is what more could flow to."""
        from scipy.sparse.csgraph import breadth_first_order

        fitted.eliminate_zeros()
        reached = breadth_first_order(fitted, len(data.y), return_predecessors=False)
        classes = np.ones(len(data.y) + 2, np.int64)
        classes[reached] = 0
        return classes[:-2]
