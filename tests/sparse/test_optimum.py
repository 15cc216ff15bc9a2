"""The exact solvers end at the optimum or warn, on problems that are hard in float32."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from asyncopt.sparse import LinearClassifier, LinearRegressor

ROWS, COLUMNS = 400, 20
SOLVERS = ("dual", "saga", "svrg")
_Array = npt.NDArray[np.float64]


def examples(seed: int = 0) -> tuple[_Array, _Array]:
    """Rows of float32 numbers, and labels with some noise."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((ROWS, COLUMNS)).astype(np.float32).astype(np.float64)
    noise = 0.5 * random.standard_normal(ROWS)
    return X, np.where(X @ random.standard_normal(COLUMNS) + noise > 0, 1.0, -1.0)


def objective(X: Any, y: Any, coef: Any, alpha: float, weights: Any = 1) -> float:
    """The objective of log_loss, in float64."""
    each = weights * np.logaddexp(0, -y * (X @ coef))
    return float(each.mean() + alpha / 2 * coef @ coef)


def optimum(X: Any, y: Any, alpha: float, weights: Any = None) -> _Array:
    how: dict[str, Any] = {"fit_intercept": False, "tol": 1e-12, "max_iter": 1000}
    model = LogisticRegression(C=1 / (alpha * len(y)), solver="newton-cholesky", **how)
    return np.asarray(model.fit(X, y, sample_weight=weights).coef_[0])


def classifier(alpha: float, **how: Any) -> LinearClassifier:
    return LinearClassifier(alpha=alpha, fit_intercept=False, random_state=0, **how)


def off(found: Any, expected: Any) -> float:
    """The greatest difference, as a share of the largest weight."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def heavy_row() -> tuple[_Array, _Array, None]:
    X, y = examples()
    X[7] *= 100
    return X.astype(np.float32).astype(np.float64), y, None


def heavy_weights() -> tuple[_Array, _Array, _Array]:
    X, y = examples()
    weights = np.random.default_rng(5).lognormal(0, 3, ROWS)
    return X, y, weights.astype(np.float32).astype(np.float64)


def heavy_column() -> tuple[_Array, _Array, None]:
    X, y = examples()
    X[:, 0] *= 100
    return X.astype(np.float32).astype(np.float64), y, None


HEAVY = {"row": heavy_row, "weights": heavy_weights, "column": heavy_column}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_momentum_does_not_walk_away(solver: str) -> None:
    """3,000 passes with a column that is 100 times as large are no worse than 300."""
    X, y, _ = heavy_column()
    least = objective(X, y, optimum(X, y, 1e-3), 1e-3)
    gaps = []
    for passes in (300, 3000):
        model = classifier(1e-3, solver=solver, nesterov=True, tol=None, max_iter=passes)
        gaps.append(objective(X, y, model.fit(X, y).coef_[0], 1e-3) / least - 1)
    assert gaps[1] < 1e-3
    assert gaps[1] <= max(gaps[0], 1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
def test_columns_of_all_sizes(solver: str) -> None:
    """Ridge regression over columns from 0.1 to 10, to 1e-6 of scikit-learn's coefficients."""
    random = np.random.default_rng(1)
    scales = np.logspace(-1, 1, COLUMNS)
    X = (random.standard_normal((ROWS, COLUMNS)) * scales).astype(np.float32).astype(np.float64)
    noise = 0.5 * random.standard_normal(ROWS)
    y = (X @ random.standard_normal(COLUMNS) + noise).astype(np.float32).astype(np.float64)
    alpha = 1e-3
    expected = Ridge(alpha=alpha * ROWS, fit_intercept=False, solver="cholesky").fit(X, y).coef_
    how: dict[str, Any] = {"tol": 1e-11, "max_iter": 5000, "random_state": 0}
    model = LinearRegressor(solver=solver, nesterov=True, alpha=alpha, fit_intercept=False, **how)
    assert off(model.fit(X, y).coef_, expected) < 1e-6


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", list(HEAVY))
def test_it_ends_near_the_optimum_or_warns(name: str, solver: str, nesterov: bool) -> None:
    """Within ``tol`` of the least objective; steps that became short are no optimum."""
    X, y, weights = HEAVY[name]()
    alpha, tol = 1e-3, 1e-3
    given = 1 if weights is None else weights
    least = objective(X, y, optimum(X, y, alpha, weights), alpha, given)
    model = classifier(alpha, solver=solver, nesterov=nesterov, tol=tol, max_iter=2500)
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        model.fit(X, y, sample_weight=weights)
    converged = not any(each.category is ConvergenceWarning for each in issued)
    reached = objective(X, y, model.coef_[0], alpha, given)
    assert reached <= least * (1 + tol) or not converged
    assert converged == (model.n_iter_ < 2500)
    if solver == "dual" and nesterov:
        assert converged


@pytest.mark.parametrize(
    ("name", "solver", "passes"),
    [("row", "dual", 500), ("weights", "dual", 500), ("row", "saga", 20_000)],
)
def test_heavy_examples_to_1e_6(name: str, solver: str, passes: int) -> None:
    X, y, weights = HEAVY[name]()
    how: dict[str, Any] = {"solver": solver, "nesterov": True, "tol": 1e-10, "max_iter": passes}
    model = classifier(1e-3, **how).fit(X, y, sample_weight=weights)
    assert off(model.coef_[0], optimum(X, y, 1e-3, weights)) < 1e-6


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("solver", SOLVERS)
def test_to_1e_8_by_default_steps(solver: str, threads: int) -> None:
    """Nearer than float32 weights can be.

    Two threads take their steps in another order each time. They may end at any point whose
    objective is within ``tol`` of the least one, which the penalty's curvature bounds in distance.
    """
    X, y = examples()
    alpha, tol = 0.1, 1e-12
    how: dict[str, Any] = {"tol": tol, "max_iter": 5000, "n_threads": threads}
    model = classifier(alpha, solver=solver, **how).fit(X, y)
    best = optimum(X, y, alpha)
    least = objective(X, y, best, alpha)
    distance = np.linalg.norm(model.coef_[0] - best)
    assert distance <= np.sqrt(2 * tol * least / alpha)
    if threads == 1:
        assert off(model.coef_[0], best) < 1e-8


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_support_vectors_to_1e_6(loss: str) -> None:
    X, y = examples()
    alpha = 0.01
    how: dict[str, Any] = {"fit_intercept": False, "tol": 1e-9, "max_iter": 10**6}
    expected = LinearSVC(C=1 / (alpha * ROWS), loss=loss, **how).fit(X, y).coef_[0]
    model = classifier(alpha, loss=loss, solver="dual", tol=1e-10, max_iter=20_000).fit(X, y)
    assert off(model.coef_[0], expected) < 1e-6


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("solver", ["saga", "svrg"])
def test_zeros_and_intercept_to_1e_6(solver: str, nesterov: bool) -> None:
    """With an l1 and l2 penalty: exactly the same zeros."""
    X, _ = examples()
    truth = np.where(np.arange(COLUMNS) < 8, 1.0, 0.0)
    noise = np.random.default_rng(3).standard_normal(ROWS)
    y = (X @ truth + 2 + 0.3 * noise).astype(np.float32).astype(np.float64)
    reference = ElasticNet(alpha=0.1, l1_ratio=0.5, tol=1e-14, max_iter=10**5).fit(X, y)
    how: dict[str, Any] = {"penalty": "elasticnet", "l1_ratio": 0.5, "tol": 1e-11, "alpha": 0.1}
    model = LinearRegressor(solver=solver, nesterov=nesterov, random_state=0, **how).fit(X, y)
    assert off(model.coef_, reference.coef_) < 1e-6
    assert model.intercept_[0] == pytest.approx(reference.intercept_, rel=1e-6)
    np.testing.assert_array_equal(model.coef_ == 0, reference.coef_ == 0)
    assert (model.coef_ == 0).any()


@pytest.mark.parametrize("penalty", ["l1", None])
def test_an_objective_of_almost_nothing(penalty: str | None) -> None:
    """Targets without noise, whose least loss is 0 or nearly so, end by themselves."""
    X, _ = examples()
    truth = np.random.default_rng(2).standard_normal(COLUMNS)
    how: dict[str, Any] = {"solver": "saga", "penalty": penalty, "alpha": 1e-9, "tol": 1e-6}
    model = LinearRegressor(fit_intercept=False, random_state=0, **how).fit(X, X @ truth)
    assert off(model.coef_, truth) < 1e-4


@pytest.mark.parametrize("solver", ["saga", "svrg"])
def test_warm_start_with_momentum(solver: str) -> None:
    """The first center is where the last fit ended, and column 0 is not used any more."""
    X, y = examples()
    again = X.copy()
    again[:, 0] = 0
    how: dict[str, Any] = {"tol": 1e-11, "max_iter": 5000, "warm_start": True}
    model = classifier(1e-3, solver=solver, nesterov=True, **how).fit(X, y)
    model.fit(sparse.csr_array(again), -y)
    assert off(model.coef_[0], optimum(again, -y, 1e-3)) < 1e-6


@pytest.mark.parametrize(("penalty", "has_dual"), [("l2", True), ("l1", False), (None, False)])
def test_a_warning_names_only_solvers_that_take_the_penalty(
    penalty: str | None, has_dual: bool
) -> None:
    X, y = examples()
    model = classifier(1e-3, solver="saga", nesterov=True, penalty=penalty, max_iter=1)
    with pytest.warns(ConvergenceWarning) as found:
        model.fit(X, y)
    assert ("solver='dual'" in str(found[0].message)) is has_dual
