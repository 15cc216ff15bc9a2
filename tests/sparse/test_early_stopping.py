"""Early stopping keeps the model of the best pass, with a criterion and without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from asyncopt.sparse import LinearClassifier, LinearRegressor


def data(regression: bool) -> tuple[Any, Any]:
    """More columns than examples can tell apart, so that later passes overfit."""
    random = np.random.default_rng(0)
    X = random.standard_normal((150, 120))
    score = X[:, :5].sum(axis=1) + 2 * random.standard_normal(150)
    return X, score if regression else score > 0


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "dual", "saga", "svrg"])
def test_all_passes_keep_the_best(solver: str, regression: bool) -> None:
    """The score of the examples that were held out never falls from one ``max_iter`` to more."""
    X, y = data(regression)
    kind: Any = LinearRegressor if regression else LinearClassifier
    how: dict[str, Any] = {"solver": solver, "alpha": 1e-6, "random_state": 0, "tol": None}
    held_out = train_test_split(
        np.arange(len(y)),
        test_size=0.3,
        random_state=np.random.RandomState(0),
        stratify=None if regression else y,
    )[1]
    scores = []
    for passes in (2, 3, 5, 8, 12, 20, 35, 60):
        model = kind(early_stopping=True, validation_fraction=0.3, max_iter=passes, **how)
        model.fit(X, y)
        assert model.n_iter_ == passes
        scores.append(model.score(X[held_out], y[held_out]))
    assert scores == sorted(scores)


@pytest.mark.parametrize("kind", [LinearClassifier, LinearRegressor])
def test_a_single_pass_holds_out_nothing(kind: Any) -> None:
    with pytest.raises(ValueError, match=r"early_stopping: expected False in partial_fit, .* True"):
        kind(early_stopping=True).partial_fit(np.eye(2), [0, 1])
