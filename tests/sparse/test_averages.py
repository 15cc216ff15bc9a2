"""The mean of the weights: equal to scikit-learn's at one thread, less noise at two."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import SGDRegressor

from asyncopt.sparse import LinearClassifier, LinearRegressor, make_like, syncs

ROWS = 200
STEADY: dict[str, Any] = {"penalty": None, "learning_rate": "constant", "eta0": 0.02}
IN_ORDER: dict[str, Any] = STEADY | {"shuffle": False, "tol": None}


def numbers() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    random = np.random.default_rng(0)
    X = random.standard_normal((ROWS, 6)) * (random.random((ROWS, 6)) < 0.5)
    return X, X @ np.arange(6) + 3 + random.standard_normal(ROWS)


@pytest.mark.parametrize("average", [True, 1, 250, 3 * ROWS, 10 * ROWS])
def test_the_average_equals_scikit_learns(average: bool | int) -> None:
    """If averaging would begin after the end, scikit-learn returns the plain weights."""
    X, y = numbers()
    theirs = SGDRegressor(average=average, max_iter=3, **IN_ORDER).fit(X, y)
    ours = LinearRegressor(average=average, max_iter=3, **IN_ORDER).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4)


def weights_after_each_example(X: Any, y: Any) -> npt.NDArray[np.float64]:
    """Weights of AdaGrad with an elastic net, in float64; shape (examples, features)."""
    eta0, alpha, l1_ratio = 0.5, 0.01, 0.3
    gaps = len(X) / (X != 0).sum(axis=0)
    w, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    trail = []
    for x, target in zip(X, y, strict=True):
        gradient = (x @ w - target) * x
        squares += gradient**2
        eta = np.where(x != 0, eta0 / (np.sqrt(squares) + 1e-10), 0)
        w = w - eta * gradient
        w = np.sign(w) * np.maximum(np.abs(w) - eta * alpha * l1_ratio * gaps, 0)
        w /= 1 + eta * alpha * (1 - l1_ratio) * gaps
        trail.append(w)
    return np.array(trail)


@pytest.mark.parametrize("begin", [1, 80])
def test_adagrad_and_penalties(begin: int) -> None:
    X, y = numbers()
    X[:, 0] *= np.arange(ROWS) % 50 == 0
    model = LinearRegressor(
        penalty="elasticnet", alpha=0.01, l1_ratio=0.3, eta0=0.5, fit_intercept=False, tol=None,
        average=begin, max_iter=1, shuffle=False,
    ).fit(X, y)  # fmt: skip
    expected = weights_after_each_example(X, y)[begin - 1 :].mean(axis=0)
    np.testing.assert_allclose(model.coef_, expected, rtol=1e-4)


def test_partial_fit_goes_on() -> None:
    X, y = numbers()
    whole = LinearRegressor(average=50, max_iter=4, **IN_ORDER).fit(X, y)
    parts = LinearRegressor(average=50, **IN_ORDER)
    for _ in range(4):
        parts.partial_fit(X, y)
    np.testing.assert_array_equal(parts.coef_, whole.coef_)


def test_it_begins_where_it_is_asked_for_and_ends_where_it_is_not() -> None:
    X, y = numbers()
    how = IN_ORDER | {"fit_intercept": False}  # which learns as all examples so far have it
    trail = []
    steps = LinearRegressor(**how)
    for i in range(2 * ROWS):
        steps.partial_fit(X[i % ROWS, None], y[i % ROWS, None])
        trail.append(steps.coef_)
    model = LinearRegressor(**how).partial_fit(X, y)
    np.testing.assert_allclose(model.coef_, trail[ROWS - 1], rtol=1e-5)
    model.set_params(average=True).partial_fit(X, y)
    np.testing.assert_allclose(model.coef_, np.mean(trail[ROWS:], axis=0), rtol=1e-4)
    model.set_params(average=False).partial_fit(X, y)
    thrice = LinearRegressor(max_iter=3, **how).fit(X, y)
    np.testing.assert_array_equal(model.coef_, thrice.coef_)


@pytest.mark.parametrize("sync", [sync for sync in syncs() if sync != "ordered"])
@pytest.mark.parametrize("learning_rate", ["constant", "adagrad"])
def test_noise_is_averaged_out(sync: str, learning_rate: str) -> None:
    """With two threads, where steps are too large to rest; from the second pass on."""
    X, y = make_like("rcv1", rows=6000, columns=3000)
    how: dict[str, Any] = {"eta0": 2.0, "alpha": 1e-4, "max_iter": 8, "tol": None}

    def loss(average: int, threads: int) -> float:
        model = LinearClassifier(
            learning_rate=learning_rate, average=average, n_threads=threads, sync=sync,
            random_state=0, **how,
        ).fit(X, y)  # fmt: skip
        margins = y * model.decision_function(X)
        return float(np.logaddexp(0, -margins).mean() + 1e-4 / 2 * (model.coef_**2).sum())

    one, two, last = loss(6001, 1), loss(6001, 2), loss(0, 2)
    assert two < last
    assert two < one + 0.2 * (np.log(2) - one)


def test_early_stopping_keeps_the_best_mean() -> None:
    X, y = numbers()
    how: dict[str, Any] = {
        "early_stopping": True,
        "average": True,
        "random_state": 0,
        "max_iter": 50,
    }
    model = LinearRegressor(**STEADY, **how).fit(X, y)
    assert model.n_iter_ < 50
    assert model.score(X, y) > 0.9
    model.set_params(early_stopping=False).partial_fit(X, y)
    assert np.isfinite(model.coef_).all()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"average": -1}, "average: expected an integer >= 0, got -1"),
        ({"average": "yes"}, "average: expected an integer >= 0, got 'yes'"),
        ({"average": True, "solver": "saga"}, "average: expected False with solver='saga'"),
        ({"average": 9, "learning_rate": "ftrl"}, "average: .*False with learning_rate='ftrl'"),
    ],
)
def test_what_is_not_defined(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearRegressor(**how).fit(*numbers())
