"""Custom losses: results equal to scikit-learn's models, and error messages."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numba
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import PoissonRegressor, QuantileRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from asyncopt.sparse import CustomLoss, LinearClassifier, LinearRegressor, custom, make_like, syncs
from tests.sparse.test_estimators import classes, expected_failures


def pinball(prediction: float, target: float) -> tuple[float, float]:
    """Pinball loss of the quantile 0.9."""
    error = target - prediction
    return (0.9 * error, -0.9) if error > 0 else (-0.1 * error, 0.1)


def poisson(prediction: float, target: float) -> float:
    """Negative log-likelihood of a count; the prediction is the logarithm of its mean."""
    return math.exp(prediction) - target * prediction


def poisson_derivative(prediction: float, target: float) -> float:
    return math.exp(prediction) - target


def squared(prediction: float, target: float) -> tuple[float, float]:
    error = prediction - target
    return error * error / 2, error


@numba.njit()
def logistic(prediction: float, target: float) -> tuple[float, float]:
    margin = target * prediction
    e = math.exp(-abs(margin))
    wrong = (1 if margin < 0 else e) / (1 + e)
    return math.log1p(e) + max(-margin, 0), -target * wrong


@numba.njit()
def focal(prediction: float, target: float) -> tuple[float, float]:
    """Lin et al., arXiv 1708.02002, with gamma = 2."""
    loss, slope = logistic(prediction, target)
    right = math.exp(-loss)
    wrong = 1 - right
    return wrong**2 * loss, slope * (wrong**2 + 2 * wrong * right * loss)


def numbers(of: int = 1500) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    X = random.standard_normal((of, 3))
    return X, X @ [1, 2, -1] + random.standard_normal(of)


HOW: dict[str, Any] = {"penalty": None, "tol": None, "random_state": 0}


def test_quantiles_are_scikit_learns() -> None:
    X, y = numbers()
    theirs = QuantileRegressor(quantile=0.9, alpha=0).fit(X, y)
    ours = custom(pinball, max_iter=100, eta0=0.2, **HOW).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.05)
    assert np.mean(y < ours.predict(X)) == pytest.approx(0.9, abs=0.01)
    losses = np.maximum(0.9 * (y - ours.predict(X)), 0.1 * (ours.predict(X) - y))
    assert ours.score(X, y) == pytest.approx(-losses.mean())
    weights = np.arange(len(y)) % 2
    assert ours.score(X, y, weights) == pytest.approx(-losses[1::2].mean())


def test_poisson_is_scikit_learns() -> None:
    X, _ = numbers()
    y = np.random.default_rng(1).poisson(np.exp(0.5 + X @ [0.3, -0.2, 0.1]))
    theirs = PoissonRegressor(alpha=0, tol=1e-8).fit(X, y)
    ours = custom(poisson, derivative=poisson_derivative, max_iter=100, eta0=0.1, **HOW).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.02)
    assert ours.intercept_[0] == pytest.approx(theirs.intercept_, abs=0.02)
    np.testing.assert_allclose(np.exp(ours.predict(X)), theirs.predict(X), rtol=0.1)


@pytest.mark.parametrize("learning_rate", ["adagrad", "inverse"])
def test_a_custom_loss_is_the_built_in_one(learning_rate: str) -> None:
    X, y = classes()
    how: dict[str, Any] = {
        "learning_rate": learning_rate,
        "eta0": 0.1,
        "max_iter": 5,
        "tol": None,
        "random_state": 0,
    }
    built_in = LinearClassifier(**how).fit(X, y)
    ours = LinearClassifier(CustomLoss(logistic, curvature=0.25), **how).fit(X, y)
    np.testing.assert_allclose(ours.coef_, built_in.coef_, rtol=1e-4, atol=1e-5)
    assert (ours.predict(X) == built_in.predict(X)).mean() > 0.99


@pytest.mark.parametrize("solver", ["saga", "svrg"])
@pytest.mark.parametrize("threads", [1, 2])
def test_exact_solvers_need_no_more_than_the_derivative(solver: str, threads: int) -> None:
    X, y = classes()
    how: dict[str, Any] = {"alpha": 1e-2, "solver": solver, "tol": 1e-5, "random_state": 0}
    built_in = LinearClassifier(**how).fit(X, y)
    loss = CustomLoss(logistic, curvature=0.25)
    ours = LinearClassifier(loss, n_threads=threads, **how).fit(X, y)
    np.testing.assert_allclose(ours.coef_, built_in.coef_, atol=1e-4)
    assert ours.n_iter_ < 1000


def test_exact_solvers_errors() -> None:
    X, y = numbers()
    with pytest.raises(ValueError, match=r"loss: expected .* with solver='dual'; got CustomLoss\("):
        custom(squared, solver="dual").fit(X, y)
    with pytest.raises(ValueError, match=r"loss: expected .* raise .*curvature"):
        custom(squared, solver="saga", curvature=1e-3).fit(X, y)


@pytest.mark.parametrize("sync", [sync for sync in syncs() if sync != "ordered"])
def test_threads(sync: str) -> None:
    X, y = make_like("rcv1", rows=6000, columns=3000)
    how: dict[str, Any] = {"alpha": 1e-5, "max_iter": 10, "tol": None, "random_state": 0}
    loss = CustomLoss(logistic, curvature=0.25)
    one, three = (
        LinearClassifier(loss, n_threads=n, sync=sync, **how).fit(X, y).decision_function(X)
        for n in (1, 3)
    )
    best, reached = loss.mean(one, y), loss.mean(three, y)
    assert reached < best + (0.5 if sync == "unshared" else 0.1) * (np.log(2) - best)


def test_focal_loss_classifies() -> None:
    X, y = classes(4)
    ours = LinearClassifier(CustomLoss(focal), random_state=0).fit(X, y)
    assert ours.score(X, y) > LinearClassifier(random_state=0).fit(X, y).score(X, y) - 0.05
    assert not hasattr(ours, "predict_proba")


def test_is_shown_by_the_names_of_its_functions() -> None:
    """Names are the same in every process, so test ids can contain them."""
    assert repr(CustomLoss(squared)) == "CustomLoss(squared, curvature=1)"


def test_early_stopping_goes_by_the_loss() -> None:
    X, _ = numbers()
    y = np.random.default_rng(1).poisson(np.exp(0.5 + X @ [0.3, -0.2, 0.1]))
    how: dict[str, Any] = {"derivative": poisson_derivative, "random_state": 0}
    model = custom(poisson, early_stopping=True, tol=1e-4, **how).fit(X, y)
    assert model.n_iter_ < 100
    longer = custom(poisson, max_iter=100, tol=None, **how).fit(X, y)
    assert model.score(X, y) > longer.score(X, y) - 0.05


SCORE = "under a custom loss the score is minus the mean loss, never above 0"


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [custom(squared)],
    expected_failed_checks=lambda e: expected_failures(e) | {"check_regressors_train": SCORE},
    xfail_strict=False,
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_copies() -> None:
    """Clones share what was compiled; a pickle holds a module's functions by name."""
    X, y = numbers()
    model = custom(pinball, max_iter=3, **HOW).fit(X, y)
    assert clone(model).loss is model.loss
    assert copy.deepcopy(model).loss is model.loss
    again = pickle.loads(pickle.dumps(model))
    assert again.loss == model.loss
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(
        again.partial_fit(X, y).coef_, copy.deepcopy(model).partial_fit(X, y).coef_
    )
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(custom(lambda p, t: (p * t, t)))
    search = GridSearchCV(LinearRegressor(), {"loss": [model.loss, CustomLoss(squared)]}, cv=2)
    assert search.fit(X, y).best_params_["loss"] in (model.loss, CustomLoss(squared))


def raises_far_off(prediction: float, target: float) -> tuple[float, float]:
    if prediction > 1:
        raise ValueError("too far")
    return (prediction - target) ** 2 / 2, prediction - target


@numba.njit()
def divides(prediction: float, target: float) -> tuple[float, float]:
    """Numba's own default raises ZeroDivisionError."""
    return prediction / (target - 3), 1 / (target - 3)


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (raises_far_off, 20.0, r"got nan and nan at prediction 2\.1, target 20;"),
        (divides, 3.0, r"got nan and nan at prediction .*, target 3;"),
        (lambda p, t: (t / p, -t / p**2), 1.0, r"got inf and -inf at prediction 0, target 1;"),
    ],
)
@pytest.mark.parametrize("threads", [1, 3])
def test_not_finite(
    capfd: pytest.CaptureFixture[str], loss: Any, target: float, message: str, threads: int
) -> None:
    """A clear error; the model is as it was, and nothing is printed."""
    X = np.ones((100, 2))
    model = custom(loss, n_threads=threads, eta0=0.7, max_iter=50, tol=None)
    with pytest.raises(
        ValueError, match="loss: expected a finite value and derivative, " + message
    ):
        model.fit(X, np.full(100, target))
    assert not hasattr(model, "coef_")
    assert capfd.readouterr() == ("", "")


def test_kinks_and_bounded_domains_pass_the_check() -> None:
    CustomLoss(lambda p, t: (abs(p - t), 1.0 if p > t else -1.0))
    CustomLoss(lambda p, t: (p - t * math.log(p), 1 - t / p))  # p > 0
    CustomLoss(lambda p, t: np.float32((p - t) * (p - t)), lambda p, t: np.float32(2 * (p - t)))
    CustomLoss(lambda p, t: (p, 7.0), check=False)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"function": 3}, TypeError, r"loss: expected a function of \(prediction, target\), got 3"),
        ({"function": lambda p: p}, TypeError, "too many positional arguments"),
        ({"function": lambda p, t: {}.foo}, TypeError, "that numba compiles, got .*Unknown attrib"),  # type: ignore[attr-defined]
        ({"function": poisson}, TypeError, r"returns the pair \(value, derivative\), got float64"),
        ({"function": lambda p, t: (p, t, 1)}, TypeError, "returns the pair"),
        (
            {"function": squared, "derivative": poisson},
            TypeError,
            "loss: expected .* a number, got",
        ),
        ({"function": poisson, "derivative": squared}, TypeError, "derivative: expected .* a numb"),
        ({"function": squared, "curvature": 0}, ValueError, "curvature: expected a finite number"),
        (
            {"function": lambda p, t: ((p - t) ** 2, p - t)},
            ValueError,
            r"derivative: expected about 2\.\d*, the slope .* target -1; got 1\.\d*; correct it",
        ),
        ({"function": lambda p, t: (p, math.nan)}, ValueError, "expected about 1, .* got nan"),
        ({"function": lambda p, t: (math.nan, p)}, ValueError, "expected finite values at predict"),
    ],
)
def test_wrong_functions(how: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"(?s){message}"):
        CustomLoss(**how)


def test_a_bare_function_is_no_loss() -> None:
    with pytest.raises(ValueError, match=r"loss: expected a name or a CustomLoss, .*CustomLoss\("):
        LinearRegressor(pinball).fit(*numbers())  # type: ignore[arg-type]
