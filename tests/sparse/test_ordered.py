"""sync="ordered": any number of threads gives the bits of one thread."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from asyncopt.sparse import LinearClassifier, LinearRegressor

THREADS = (2, 3, 5)


def made_up(rows: int = 3000, columns: int = 30000, entries: int = 3, seed: int = 0) -> Any:
    """Rows of so few columns, of so many, that blocks fall apart; and 4 classes."""
    random = np.random.default_rng(seed)
    coords = np.repeat(np.arange(rows), entries), random.integers(0, columns, rows * entries)
    X = sparse.csr_array((random.normal(size=rows * entries), coords), shape=(rows, columns))
    scores = X @ random.normal(size=(columns, 4))
    return X, scores.argmax(axis=1)


def model(kind: type[Any], threads: int, **how: Any) -> Any:
    how = {"fit_intercept": False, "max_iter": 4, "tol": None, "random_state": 3} | how
    return kind(sync="ordered", n_threads=threads, **how)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (LinearClassifier, {"loss": "hinge", "penalty": "l1", "alpha": 1e-3}),
        (LinearClassifier, {"learning_rate": "inverse", "shuffle": False}),
        (
            LinearClassifier,
            {"learning_rate": "adagrad", "early_stopping": True, "tol": 1e-3, "max_iter": 200},
        ),
        (LinearClassifier, {"solver": "dual"}),
        (LinearRegressor, {"loss": "huber", "penalty": "elasticnet"}),
        (LinearRegressor, {"solver": "saga", "alpha": 1e-3}),
        (LinearRegressor, {"solver": "svrg", "alpha": 1e-3}),
    ],
)
def test_threads_leave_the_same_bits(kind: type[Any], how: dict[str, Any]) -> None:
    X, y = made_up()
    weights = np.random.default_rng(1).random(len(y))
    one = model(kind, 1, **how).fit(X, y, sample_weight=weights)
    for threads in THREADS:
        many = model(kind, threads, **how).fit(X, y, sample_weight=weights)
        np.testing.assert_array_equal(many.coef_, one.coef_)
        assert many.n_iter_ == one.n_iter_


def test_partial_fits_leave_the_same_bits() -> None:
    X, y = made_up()
    models = [model(LinearClassifier, threads, learning_rate="adagrad") for threads in (1, 2)]
    for part in (slice(0, 1000), slice(1000, 3000)):
        for each in models:
            each.partial_fit(X[part], y[part], classes=range(4))
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)


def test_rows_apart_are_as_of_one_thread_under_any_sync() -> None:
    random = np.random.default_rng(2)
    X = sparse.diags_array(random.normal(size=5000)).tocsr()
    y = random.normal(size=5000)
    ordered = model(LinearRegressor, 2).fit(X, y)
    hogwild = LinearRegressor(
        sync="hogwild", fit_intercept=False, max_iter=4, tol=None, random_state=3
    ).fit(X, y)
    np.testing.assert_array_equal(ordered.coef_, hogwild.coef_)


@pytest.mark.parametrize("shared", ["intercept", "column"])
def test_examples_that_hang_together_are_left_to_one_thread(shared: str) -> None:
    X, y = made_up(1000)
    if shared == "column":
        X = sparse.hstack([X, np.ones((1000, 1))], format="csr")
    how = {"fit_intercept": shared == "intercept"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one thread is what was asked for
        one = model(LinearClassifier, 1, **how).fit(X, y)
    reason = "share the intercept" if shared == "intercept" else "100% of the entries hang together"
    with pytest.warns(RuntimeWarning, match=f"sync='ordered': .*{reason}.*one thread trains") as at:
        two = model(LinearClassifier, 2, **how).fit(X, y)
    assert at[0].filename == __file__
    np.testing.assert_array_equal(two.coef_, one.coef_)
    np.testing.assert_array_equal(two.intercept_, one.intercept_)
    assert one.score(X, y) > 0.8
