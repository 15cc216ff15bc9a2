"""A fit ends by its criterion, or warns: every estimator and solver alike."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import kneighbors_graph

from asyncopt.sparse import (
    GraphCut,
    LinearClassifier,
    LinearRegressor,
    MatrixFactorization,
    make_like,
    make_ratings_like,
)


def graph() -> tuple[Any, Any]:
    """Handwritten digits joined to their nearest; one in twenty is labelled."""
    X, digits = load_digits(return_X_y=True)
    near = kneighbors_graph(X, 5)
    return near.maximum(near.T), np.where(np.arange(len(digits)) % 20 == 0, digits, -1)


def ratings() -> tuple[Any]:
    return (make_ratings_like("netflix", scale=0.0002),)


CASES: dict[str, tuple[Any, Any]] = {
    **{
        f"{kind.__name__} {solver}": (kind(solver=solver, alpha=0.01, random_state=0), make_like)
        for kind in (LinearClassifier, LinearRegressor)
        for solver in ("sgd", "dual", "saga", "svrg")
    },
    "early stopping": (LinearClassifier(early_stopping=True, random_state=0), make_like),
    "ratings": (MatrixFactorization(random_state=0), ratings),
    "ranking": (MatrixFactorization("bpr", random_state=0), ratings),
    "cut": (GraphCut(random_state=0), graph),
}


@pytest.mark.parametrize("name", list(CASES))
def test_converge_or_warn(name: str) -> None:
    model, make = CASES[name]
    given = make("rcv1", rows=400, columns=60) if make is make_like else make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(*given)  # by its defaults
    enough = model.n_iter_
    assert 2 < enough < model.max_iter
    kind = type(model).__name__
    exact = getattr(model, "solver", "sgd") != "sgd"
    remedy = "scale the features, set nesterov=True, or " if exact else ""
    for passes, many in ((1, "1 pass"), (2, "2 passes")):
        model.set_params(max_iter=passes)
        with pytest.warns(ConvergenceWarning) as issued:
            model.fit(*given)
        assert [str(each.message) for each in issued] == [
            f"{kind} did not converge in {many}; {remedy}raise max_iter or tol"
        ]
        assert issued[0].filename == __file__
        assert model.n_iter_ == passes
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(tol=None).fit(*given)  # two passes were asked for
        assert model.n_iter_ == 2
        if hasattr(model, "partial_fit"):
            single = {"early_stopping": False} if hasattr(model, "early_stopping") else {}
            model.set_params(tol=1e-9, **single).partial_fit(*given)


def test_one_warning_for_all_classes() -> None:
    X, _ = make_like("rcv1", rows=300, columns=50)
    model = LinearClassifier(max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning) as issued:
        model.fit(X, np.arange(300) % 4)
    assert len(issued) == 1
    assert model.coef_.shape == (4, 50)


@pytest.mark.parametrize("kind", [GraphCut, MatrixFactorization, LinearClassifier])
def test_bad_tolerances(kind: Any) -> None:
    with pytest.raises(ValueError, match="tol: expected a finite number of at least 0, got -1"):
        kind(tol=-1).fit(np.eye(4), [0, 1, 0, 1])
