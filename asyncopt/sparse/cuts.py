"""``GraphCut``."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_non_negative, validate_data

from asyncopt import _core
from asyncopt._checks import one_of, real, real_or_none, whole
from asyncopt.sparse.convergence import warn_unconverged
from asyncopt.sparse.matrices import canonical, sound
from asyncopt.sparse.rounding import cut_of, objective_of, rounded
from asyncopt.sparse.tiles import Tiles, aligned

__all__ = ["GraphCut"]

UNLABELLED = -1
ROUNDING = 1e-6
"""Relative rounding error of float32."""
LOOKS = 10
"""Passes between checks of how far shares move; a check takes half as long as a pass."""
HEAVIEST = 1e30
"""Weights are clipped at this times the median: uncuttable edges may have any weight."""

_Floats = npt.NDArray[np.float32]
_Labels = npt.NDArray[np.int64]


class GraphCut(BaseEstimator):  # type: ignore[misc]
    """Semi-supervised classification by a multi-way cut of a graph, on several threads.

    Some vertices are labelled. The others get classes that minimize the cut: the total weight of
    edges between vertices of different classes. For three or more classes the minimum cut is hard
    to find. In the relaxation (Calinescu, Karloff and Rabani, STOC 1998), every vertex has a share
    in each class, the shares add up to 1, and an edge costs ``weight * |x_u - x_v|_1 / 2``.
    Hogwild! steps (Niu et al., arXiv 1106.5730) move the ends of one edge after the other towards
    each other. Then shares are rounded to classes by the best of many thresholds.

    A cut is also a solution of the relaxation. Steps approach the optimum slowly, and rounding
    reaches it much earlier: if the cut costs no more than the shares that were rounded, it replaces
    them, and `label_distributions_` are zeros and ones. This is always so for two classes; their
    minimum cut is a maximum flow, which `scipy.sparse.csgraph.maximum_flow` finds exactly.

    Vertices that are not connected to a labelled one have equal shares, and get the first class.
    Weights of 0 and edges from a vertex to itself are ignored.

    Args:
        eta0: the learning rate of the first pass: an edge of the median weight moves the shares of
            its ends by at most half of it.
        decay: the learning rate of pass n is ``eta0 * decay ** n``.
        max_iter: largest number of passes over the edges. A fit that reaches it before ``tol`` is
            met warns.
        tol: stop when no share moved by more than this in a pass, checked in every tenth pass and
            in the last; None: make ``max_iter`` passes, and do not warn.
        sync: how threads share the vertices: "hogwild", "striped", "mutex", or "ordered", which
            gives the same bits whatever the number of threads.
        n_threads: number of training threads.
        random_state: seed or generator. The same seed and one thread give the same bits.

    Attributes:
        transduction_: the class of each vertex, of shape (vertices,).
        label_distributions_: the shares, float32 of shape (vertices, classes).
        classes_: the labels, sorted.
        cut_: weight of the edges between different classes in ``transduction_``.
        objective_: cost of ``label_distributions_`` in the relaxation; at most ``cut_``.
        n_iter_: passes made; fewer than ``max_iter`` also if every edge's ends became alike.
        n_features_in_: vertices.
    """

    transduction_: npt.NDArray[Any]
    label_distributions_: _Floats
    classes_: npt.NDArray[Any]
    cut_: float
    objective_: float
    n_iter_: int

    def __init__(
        self,
        *,
        eta0: float = 1.0,
        decay: float = 0.98,
        max_iter: int = 300,
        tol: float | None = 1e-2,
        sync: str = "hogwild",
        n_threads: int = 1,
        random_state: Any = None,
    ) -> None:
        self.eta0 = eta0
        self.decay = decay
        self.max_iter = max_iter
        self.tol = tol
        self.sync = sync
        self.n_threads = n_threads
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Cut a graph.

        Args:
            X: weights of the edges, of at least 0; a symmetric matrix of shape (vertices,
                vertices), sparse or dense.
            y: integers of shape (vertices,), -1 where there is no label.

        Raises:
            ValueError: an argument is wrong.

        Warns:
            ConvergenceWarning: shares still moved by more than ``tol`` in the last pass.
        """
        self._check_parameters()
        edges, y = self._check_graph(X, y)
        labelled = y != UNLABELLED
        classes, given = np.unique(y[labelled], return_inverse=True)
        if len(classes) > _core.CUT_MOST_CLASSES:
            raise ValueError(
                f"y: expected at most {_core.CUT_MOST_CLASSES} classes, got {len(classes)}"
            )
        random = check_random_state(self.random_state)
        rows = aligned(len(y), _core.cut_stride(len(classes)))
        shares = rows[:, : len(classes)]
        shares[:] = 1 / len(classes)
        _settle(shares, labelled, given)
        passes, converged = self._train(edges, rows, labelled, len(classes), random)
        _mend(shares)
        found = rounded(edges, shares, random)
        reached = _reached(edges, labelled)
        found[~reached] = 0
        cut, objective = cut_of(edges, found), objective_of(edges, shares)
        if cut <= (1 + ROUNDING) * objective:
            objective = cut
            _settle(shares, reached, found[reached])
        self.classes_, self.transduction_ = classes, classes[found]
        self.label_distributions_ = shares.copy()
        self.cut_, self.objective_, self.n_iter_ = cut, objective, passes
        if not converged:
            warn_unconverged(self, passes)
        return self

    def _check_parameters(self) -> None:
        real("eta0", self.eta0, 0, open_=True)
        real("decay", self.decay, 0, 1, open_=True)
        whole("max_iter", self.max_iter, 1)
        real_or_none("tol", self.tol, 0)
        one_of("sync", self.sync, _core.cut_syncs())
        whole("n_threads", self.n_threads, 1)

    def _check_graph(self, X: Any, y: Any) -> tuple[Any, _Labels]:
        """The edges in coordinates, float64, each once, from the lower vertex; and the labels."""
        X, y = validate_data(
            self,
            sound("X", X),
            y,
            accept_sparse="csr",
            accept_large_sparse=True,
            dtype=[np.float64, np.float32],
        )
        if X.shape[0] != X.shape[1] or X.shape[0] >= 2**31:
            raise ValueError(
                f"X: expected a square matrix, of less than 2 ** 31 vertices, got {X.shape}"
            )
        check_non_negative(X, "GraphCut.fit as X")
        weights = sparse.coo_array(canonical(X))
        heaviest = weights.data.max(initial=0)
        most = np.finfo(np.float64).max / max(weights.nnz, 1)
        if heaviest > most:
            raise ValueError(
                f"X: expected weights of at most {most:g}, so that their sum is finite, "
                f"got {heaviest:g}; scale them"
            )
        _check_symmetric(weights)
        if y.dtype.kind not in "iuf" or (y != np.floor(y)).any():
            raise ValueError(
                f"y: expected integers, {UNLABELLED} where there is no label; got others (Unknown "
                f"label type: {y.dtype}); number them with sklearn.preprocessing.LabelEncoder"
            )
        if (y == UNLABELLED).all():
            raise ValueError(f"y: expected at least one label other than {UNLABELLED}, got none")
        tails, heads = weights.coords
        once = (tails < heads) & (weights.data > 0)
        values = weights.data[once].astype(np.float64)
        return sparse.coo_array((values, (tails[once], heads[once])), shape=X.shape), y

    def _train(
        self,
        edges: Any,
        rows: _Floats,
        labelled: npt.NDArray[np.bool_],
        classes: int,
        random: np.random.RandomState,
    ) -> tuple[int, bool]:
        """Move the shares of those not labelled.

        Returns:
            The number of passes, and whether ``tol`` was met or is None.
        """
        tails, heads = edges.coords
        free = ~(labelled[tails] & labelled[heads])
        weights = edges.data[free]
        if len(weights):
            with np.errstate(over="ignore"):
                weights = np.minimum(weights / np.median(weights), HEAVIEST)
        acting = sparse.coo_array((weights, (tails[free], heads[free])), shape=edges.shape)
        tiles = Tiles.of_edges(acting, rows.strides[0], random)
        call: dict[str, Any] = {
            "sync": self.sync,
            "threads": self.n_threads,
            "tails": tiles.rows,
            "heads": tiles.columns,
            "weights": tiles.values,
            "begin": tiles.begin,
            "groups": tiles.groups,
            "shares": rows,
            "fixed": labelled.astype(np.uint8),
            "classes": classes,
        }
        done, loss, rest = 0, np.inf, self.tol is None
        while done < self.max_iter and loss > 0:  # at 0, the ends of every edge are equal for good
            rate = self.eta0 * self.decay**done
            done += 1
            looks = self.tol is not None and (done % LOOKS == 0 or done == self.max_iter)
            before = rows.copy() if looks else None
            loss = _core.train_cut(**call, order=tiles.order(random), rate=rate)
            if before is not None:
                np.subtract(rows, before, out=before)
                rest = bool(np.abs(before, out=before).max(initial=0) <= self.tol)
                if rest:
                    break
        return done, rest or loss == 0

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.pairwise = True
        tags.input_tags.positive_only = True
        tags.target_tags.required = True
        tags.non_deterministic = self.n_threads != 1 and self.sync != "ordered"
        return tags


def _check_symmetric(weights: Any) -> None:
    difference = abs(weights - weights.T).tocoo()
    if difference.nnz == 0 or difference.data.max() <= ROUNDING * weights.data.max():
        return
    worst = difference.data.argmax()
    i, j = (int(numbers[worst]) for numbers in difference.coords)
    there = weights.tocsr()
    raise ValueError(
        f"X: expected a symmetric matrix, got X[{i}, {j}] = {there[i, j]:g} and "
        f"X[{j}, {i}] = {there[j, i]:g}; if every edge is there once, pass X + X.T"
    )


def _reached(edges: Any, labelled: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Mask of the vertices that are connected to a labelled one."""
    count, component = sparse.csgraph.connected_components(edges, directed=False)
    there = np.zeros(count, bool)
    there[component[labelled]] = True
    return np.asarray(there[component])


def _settle(shares: _Floats, which: npt.NDArray[np.bool_], classes: _Labels) -> None:
    """Assign some vertices to one class each."""
    shares[which] = 0
    shares[which, classes] = 1


def _mend(shares: _Floats) -> None:
    """Rescale rows to sum 1; threads that wrote a row at the same time may have torn it."""
    sums = shares.sum(axis=1, keepdims=True)
    np.divide(shares, sums, out=shares, where=sums > 0)
    shares[sums[:, 0] == 0] = 1 / shares.shape[1]
