"""Exact solvers: the same minimum as other libraries' solvers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import optimize, sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

from asyncopt.sparse import LinearClassifier, LinearRegressor, make_like

ROWS, COLUMNS, ALPHA, EPSILON = 1500, 300, 1e-3, 0.5
SOLVERS = ("dual", "saga", "svrg")
SYNCS = ("replicated", "unshared", "atomic", "mutex", "round-robin")
CLASSES = ("log_loss", "squared_hinge", "hinge")


def data(loss: str) -> tuple[Any, npt.NDArray[np.float64]]:
    X, labels = make_like(rows=ROWS, columns=COLUMNS, seed=2)
    if loss in CLASSES:
        return X, labels.astype(np.float64)
    random = np.random.default_rng(0)
    return X, X @ random.standard_normal(COLUMNS) + 0.5 * random.standard_normal(ROWS)


def objective(
    loss: str,
    X: Any,
    y: Any,
    coef: Any,
    intercept: float = 0.0,
    l1: float = 0.0,
    weights: Any = 1,
    alpha: float = ALPHA,
) -> float:
    """The minimized objective, in float64, without the penalty of an intercept."""
    prediction = X @ coef + intercept
    margin, error = y * prediction, np.abs(prediction - y)
    each = {
        "log_loss": np.logaddexp(0, -margin),
        "hinge": np.maximum(0, 1 - margin),
        "squared_hinge": np.maximum(0, 1 - margin) ** 2,
        "squared_error": error**2 / 2,
        "huber": np.where(error <= EPSILON, error**2 / 2, EPSILON * (error - EPSILON / 2)),
    }[loss]
    penalty = (alpha - l1) / 2 * (coef**2).sum() + l1 * np.abs(coef).sum()
    return float((weights * each).mean() + penalty)


def least(loss: str, X: Any, y: Any) -> float:
    """The minimum without an intercept, found by another library."""
    C = 1 / (ALPHA * ROWS)
    if loss == "huber":

        def both(w: Any) -> tuple[float, Any]:
            slope = np.clip(X @ w - y, -EPSILON, EPSILON)
            return objective(loss, X, y, w), X.T @ slope / ROWS + ALPHA * w

        how = {"method": "L-BFGS-B", "options": {"maxiter": 10**4, "ftol": 1e-14, "gtol": 1e-9}}
        return float(optimize.minimize(both, np.zeros(COLUMNS), jac=True, **how).fun)
    reference = {
        "log_loss": LogisticRegression(C=C, fit_intercept=False, tol=1e-8, max_iter=1000),
        "hinge": LinearSVC(C=C, loss="hinge", fit_intercept=False, tol=1e-8, max_iter=10**6),
        "squared_hinge": LinearSVC(C=C, fit_intercept=False, tol=1e-8, max_iter=10**5),
        "squared_error": Ridge(alpha=ALPHA * ROWS, fit_intercept=False, tol=1e-10),
    }[loss].fit(X, y)
    return objective(loss, X, y, reference.coef_.ravel())


def estimator(loss: str, **how: Any) -> Any:
    given = {"alpha": ALPHA, "fit_intercept": False, "random_state": 0, "tol": 1e-5} | how
    if loss in CLASSES:
        return LinearClassifier(loss, **given)
    return LinearRegressor(loss, epsilon=EPSILON, **given)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [*CLASSES, "squared_error", "huber"])
def test_the_optimum_is_other_libraries(loss: str) -> None:
    """Within 1e-5 of the objective, with one thread and two, however these share."""
    X, y = data(loss)
    best = least(loss, X, y)
    for solver in SOLVERS:
        if loss == "hinge" and solver != "dual":
            continue
        for threads, sync in ((1, None), *((2, sync) for sync in SYNCS)):
            model = estimator(loss, solver=solver, n_threads=threads, sync=sync).fit(X, y)
            reached = objective(loss, X, y, model.coef_.ravel())
            assert reached == pytest.approx(best, rel=1e-5), (solver, threads, sync)


def correlated(seed: int = 3) -> tuple[Any, npt.NDArray[np.float64]]:
    """Dense rows of norm 1, mostly in 8 of 40 dimensions."""
    random = np.random.default_rng(seed)
    X = random.standard_normal((400, 8)) @ random.standard_normal((8, 40))
    X += 0.3 * random.standard_normal(X.shape)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    margins = X @ random.standard_normal(40) + 0.05 * random.standard_normal(400)
    return X.astype(np.float32), np.where(margins > 0, 1.0, -1.0)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("solver", "passes"), [("dual", 30), ("saga", 120), ("svrg", 120)])
def test_momentum_takes_less_than_half_the_passes(solver: str, passes: int) -> None:
    """With alpha about 1e-2 of an example's part in the curvature."""
    X, y = correlated()
    alpha = 1e-2 / len(y)
    how = {"C": 1 / (alpha * len(y)), "fit_intercept": False, "tol": 1e-9, "max_iter": 10**4}
    best = objective("log_loss", X, y, LogisticRegression(**how).fit(X, y).coef_[0], alpha=alpha)

    def off(passes: int, nesterov: bool) -> float:
        more = {"solver": solver, "nesterov": nesterov, "max_iter": passes, "tol": None}
        model = estimator("log_loss", alpha=alpha, **more).fit(X, y)
        return objective("log_loss", X, y, model.coef_[0], alpha=alpha) / best - 1

    assert off(passes, True) < 1e-5 < off(2 * passes, False)


@pytest.mark.parametrize("solver", SOLVERS)
def test_momentum_does_not_diverge(solver: str) -> None:
    """Threads that see each other's steps late leave rounds far from their optimum."""
    X, y = correlated()
    alpha = 1e-4 / len(y)
    best = Ridge(alpha=alpha * len(y), fit_intercept=False, tol=1e-10).fit(X, y)
    how = {"alpha": alpha, "solver": solver, "nesterov": True, "n_threads": 2}
    model = estimator("squared_error", **how, max_iter=240, tol=None).fit(X, y)
    least, reached = (
        objective("squared_error", X, y, m.coef_.ravel(), alpha=alpha) for m in (best, model)
    )
    assert reached < 1.2 * least


@pytest.mark.parametrize("solver", SOLVERS)
def test_momentum_is_not_for_well_conditioned_problems(solver: str) -> None:
    X, y = correlated()
    plain, fast = (
        estimator("log_loss", alpha=1.0, solver=solver, nesterov=each).fit(X, y)
        for each in (False, True)
    )
    np.testing.assert_array_equal(plain.coef_, fast.coef_)


@pytest.mark.parametrize("solver", ["saga", "svrg"])
def test_momentum_keeps_intercept_and_zeros(solver: str) -> None:
    """The optimum of an l1 penalty, of which the intercept is free."""
    X, y = correlated()
    reference = ElasticNet(alpha=ALPHA, l1_ratio=0.5, tol=1e-10, max_iter=10**5)
    best = reference.fit(X.astype(np.float64), y)
    how = {"penalty": "elasticnet", "l1_ratio": 0.5, "fit_intercept": True, "tol": 1e-6}
    model = estimator("squared_error", solver=solver, nesterov=True, **how).fit(X, y)
    assert model.intercept_ == pytest.approx(best.intercept_, abs=1e-3)
    np.testing.assert_allclose(model.coef_, best.coef_, atol=5e-3 * np.abs(best.coef_).max())
    assert (best.coef_ == 0).any()
    assert ((model.coef_ == 0) != (best.coef_ == 0)).sum() <= 1


@pytest.mark.parametrize(("solver", "off"), [("dual", 0.05), ("saga", 1e-4), ("svrg", 1e-4)])
def test_lost_updates_leave_it_near(solver: str, off: float) -> None:
    """The dual's add up: some 1e-3 were seen."""
    X, y = data("log_loss")
    how = {"solver": solver, "n_threads": 2, "sync": "hogwild", "tol": None, "max_iter": 60}
    model = estimator("log_loss", **how).fit(X, y)
    reached = objective("log_loss", X, y, model.coef_[0])
    assert reached == pytest.approx(least("log_loss", X, y), rel=off)


@pytest.mark.parametrize("solver", ["saga", "svrg"])
def test_the_intercept_is_free(solver: str) -> None:
    X, y = data("log_loss")
    y[: ROWS // 3] = 1
    reference = LogisticRegression(C=1 / (ALPHA * ROWS), tol=1e-8, max_iter=1000).fit(X, y)
    model = estimator("log_loss", solver=solver, fit_intercept=True).fit(X, y)
    assert model.intercept_ == pytest.approx(reference.intercept_, rel=1e-2)
    best, reached = (
        objective("log_loss", X, y, m.coef_[0], m.intercept_[0]) for m in (reference, model)
    )
    assert reached == pytest.approx(best, rel=1e-5)


def test_the_duals_intercept_is_penalized() -> None:
    """The penalty is that of LinearSVC."""
    X, y = data("squared_hinge")
    reference = LinearSVC(C=1 / (ALPHA * ROWS), tol=1e-8, max_iter=10**5).fit(X, y)
    model = estimator("squared_hinge", solver="dual", fit_intercept=True).fit(X, y)
    np.testing.assert_allclose(model.intercept_, reference.intercept_, rtol=1e-2)
    np.testing.assert_allclose(model.coef_, reference.coef_, atol=2e-3 * np.abs(model.coef_).max())


@pytest.mark.parametrize("solver", ["saga", "svrg"])
def test_l1_gives_the_zeros_of_coordinate_descent(solver: str) -> None:
    X, y = data("squared_error")
    dense = X.toarray().astype(np.float64)
    ratio = 0.8
    reference = ElasticNet(
        alpha=ALPHA, l1_ratio=ratio, fit_intercept=False, tol=1e-8, max_iter=10**5
    )
    reference.fit(dense, y)
    how = {"penalty": "elasticnet", "l1_ratio": ratio}
    model = estimator("squared_error", solver=solver, **how).fit(X, y)
    best, reached = (
        objective("squared_error", X, y, m.coef_, l1=ratio * ALPHA) for m in (reference, model)
    )
    assert reached == pytest.approx(best, rel=1e-5)
    assert 10 < (reference.coef_ == 0).sum() < COLUMNS - 10
    assert ((model.coef_ == 0) != (reference.coef_ == 0)).mean() < 0.02


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_weight_is_a_repetition(solver: str) -> None:
    X, y = data("log_loss")
    times = np.random.default_rng(1).integers(0, 4, ROWS)
    weighted = estimator("log_loss", solver=solver).fit(X, y, sample_weight=times)
    reference = LogisticRegression(C=1 / (ALPHA * ROWS), fit_intercept=False, tol=1e-8)
    repeated = np.repeat(np.arange(ROWS), times)
    reference.fit(X[repeated], y[repeated])
    best, reached = (
        objective("log_loss", X, y, m.coef_[0], weights=times) for m in (reference, weighted)
    )
    assert reached == pytest.approx(best, rel=1e-5)


def test_too_few_passes_warn() -> None:
    X, y = data("log_loss")
    model = estimator("log_loss", solver="saga", max_iter=2, tol=1e-6)
    with pytest.warns(
        ConvergenceWarning,
        match="did not converge in 2 passes; scale the features, set nesterov=True, or raise max",
    ) as caught:
        model.fit(X, y)
    assert caught[0].filename == __file__
    assert model.n_iter_ == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_params(max_iter=1000).fit(X, y)
    assert 2 < model.n_iter_ < 1000


def test_rows_and_columns_of_nothing() -> None:
    X = sparse.csr_array((6, 3))
    y = [0, 1, 0, 1, 1, 1]
    for solver in SOLVERS:
        for intercept in (False, True):
            model = LinearClassifier(solver=solver, fit_intercept=intercept, alpha=0.1).fit(X, y)
            assert not model.coef_.any()
            assert (model.intercept_[0] > 0) == intercept


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"solver": "newton"}, "solver: expected one of 'sgd', 'dual', 'saga', 'svrg'; got"),
        (
            {"solver": "saga", "loss": "hinge"},
            r"loss: expected one of 'squared_hinge', .* with solver='saga'; got 'h",
        ),
        ({"solver": "dual", "penalty": "l1"}, "penalty: expected 'l2' with solver='dual'"),
        ({"solver": "dual", "alpha": 0}, "alpha: expected a finite number above 0"),
        ({"nesterov": True}, "nesterov: expected False with solver='sgd'; got True"),
        (
            {"solver": "dual", "loss": "hinge", "nesterov": True},
            r"loss: expected one of 'squared_hinge', .* with nesterov=True; got 'h",
        ),
    ],
)
def test_what_is_not_defined(how: dict[str, Any], message: str) -> None:
    X, y = data("log_loss")
    with pytest.raises(ValueError, match=message):
        LinearClassifier(**how).fit(X, y)


@pytest.mark.parametrize("kind", [LinearClassifier, LinearRegressor])
def test_partial_fit_is_for_gradient_descent(kind: Any) -> None:
    assert hasattr(kind(), "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        kind(solver="dual").partial_fit(np.eye(2), [0, 1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [LinearClassifier(solver="dual"), LinearRegressor(solver="saga")],
    expected_failed_checks=lambda _: {
        f"check_sample_weight_equivalence_on_{kind}_data": "compares to 1e-7; tol is 1e-3"
        for kind in ("dense", "sparse")
    },
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)
