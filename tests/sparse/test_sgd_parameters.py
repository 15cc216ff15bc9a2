"""Losses, learning rates and starts, compared with SGDClassifier and SGDRegressor."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import SGDClassifier, SGDRegressor
from sklearn.linear_model._sgd_fast import Hinge, ModifiedHuber, SquaredHinge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from asyncopt.sparse import LinearClassifier, LinearRegressor

THEIRS = {
    "hinge": Hinge(1.0),
    "perceptron": Hinge(0.0),
    "squared_hinge": SquaredHinge(),
    "modified_huber": ModifiedHuber(),
}
RATES = ("constant", "optimal", "invscaling", "adaptive")
NEW_LOSSES = ("modified_huber", "perceptron")

_Array = npt.NDArray[np.float64]


def data(rows: int = 300) -> tuple[_Array, npt.NDArray[np.int64]]:
    """Examples with columns of about 1, so that the intercept's unit is 1."""
    random = np.random.default_rng(0)
    X = random.standard_normal((rows, 6))
    X /= np.sqrt((X**2).mean())
    return X, (X @ np.arange(-2, 4) + random.standard_normal(rows) > 0).astype(np.int64)


IN_ORDER: dict[str, Any] = {
    "learning_rate": "constant", "eta0": 0.01, "penalty": None, "shuffle": False, "tol": None,
}  # fmt: skip


@pytest.mark.parametrize("loss", list(THEIRS))
def test_a_derivative_is_scikit_learns(loss: str) -> None:
    """Each example moves a weight of its own by minus its loss's derivative."""
    predictions = np.linspace(-3.1, 3.2, 64)
    y = np.arange(64) % 2
    how = {**IN_ORDER, "eta0": 1, "max_iter": 1, "fit_intercept": False}
    model = LinearClassifier(loss, **how).fit(np.eye(64), y, coef_init=predictions)
    expected = [THEIRS[loss].py_dloss(p, t) for p, t in zip(predictions, 2.0 * y - 1, strict=True)]
    np.testing.assert_allclose(predictions - model.coef_[0], expected, atol=1e-6)
    assert (model.coef_[0] != predictions).any()


@pytest.mark.parametrize("loss", list(THEIRS))
def test_the_loss_that_is_printed_is_scikit_learns(
    loss: str, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions = np.linspace(-3.1, 3.2, 64)
    y = np.arange(64) % 2
    how = {**IN_ORDER, "eta0": 1e-9, "max_iter": 2, "fit_intercept": False, "verbose": 1}
    LinearClassifier(loss, **how).fit(np.eye(64), y, coef_init=predictions)
    pairs = zip(predictions, 2.0 * y - 1, strict=True)
    mean = np.mean([THEIRS[loss].py_loss(p, t) for p, t in pairs])
    lines = capsys.readouterr().out.splitlines()
    norm = np.linalg.norm(predictions)
    for epoch, line in enumerate(lines, 1):
        found = re.fullmatch(
            r"Epoch (\d): Norm: (\S+), NNZs: 64, Bias: 0\.000000, T: (\d+), Avg\. loss: (\S+)", line
        )
        assert found, line
        assert (int(found[1]), int(found[3])) == (epoch, 64 * epoch)
        assert float(found[2]) == pytest.approx(norm, abs=0.01)
        assert float(found[4]) == pytest.approx(mean, abs=2e-6)
    assert len(lines) == 2


def test_nothing_is_printed_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    LinearClassifier(max_iter=2, tol=None).fit(*data())
    assert capsys.readouterr().out == ""
    X, y = data()
    LinearClassifier(max_iter=1, tol=None, verbose=True).fit(X, np.arange(len(y)) % 3)
    starts = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert starts == [f"Output {output}, Epoch 1" for output in range(3)]


def slope(loss: str, prediction: float, target: float) -> float:
    """Derivative of a loss by its textbook formula."""
    margin = prediction * target
    if loss == "perceptron":
        return -target if margin <= 0 else 0.0
    if margin >= 1:
        return 0.0
    return -4 * target if margin < -1 else -2 * target * (1 - margin)


def rate(name: str, t: int, alpha: float, eta0: float, power_t: float) -> float:
    """Scikit-learn's, of the t-th example, from 1 on."""
    if name == "optimal":
        typical = np.sqrt(1 / np.sqrt(alpha))
        return float(1 / (alpha * (1 / (typical * alpha) + t - 1)))
    return eta0 / t**power_t if name == "invscaling" else eta0


@pytest.mark.parametrize("learning_rate", RATES)
@pytest.mark.parametrize("loss", NEW_LOSSES)
def test_one_thread_does_what_a_loop_does(loss: str, learning_rate: str) -> None:
    X, y = data(80)
    alpha, eta0, power_t = 100.0, 0.05, 0.3
    w, bias = np.zeros(6), 0.0
    for epoch in range(3):
        for i, (x, target) in enumerate(zip(X, 2.0 * y - 1, strict=True)):
            eta = rate(learning_rate, epoch * len(y) + i + 1, alpha, eta0, power_t)
            gradient = slope(loss, float(x @ w + bias), target)
            w, bias = w - eta * gradient * x, bias - eta * gradient
    model = LinearClassifier(
        loss, penalty=None, alpha=alpha, learning_rate=learning_rate, eta0=eta0, power_t=power_t,
        shuffle=False, max_iter=3, tol=None,
    ).fit(X, y)  # fmt: skip
    scale = np.abs(w).max()
    np.testing.assert_allclose(model.coef_[0], w, atol=2e-5 * scale)
    assert model.intercept_[0] == pytest.approx(bias, abs=2e-5 * scale)


@pytest.mark.parametrize("learning_rate", RATES)
def test_a_regression_is_scikit_learns(learning_rate: str) -> None:
    """Example by example, with their default of power_t."""
    X, _ = data()
    y = X @ np.arange(6) + 1
    how = IN_ORDER | {"learning_rate": learning_rate, "alpha": 1e4}
    ours, theirs = (kind(max_iter=4, **how).fit(X, y) for kind in (LinearRegressor, SGDRegressor))
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4)


def test_adaptive_divides_where_scikit_learn_does() -> None:
    """As many passes, and the same weights after all the divisions by 5."""
    X, _ = data()
    y = X @ np.arange(6) + np.random.default_rng(1).standard_normal(len(X))
    how: dict[str, Any] = {
        **IN_ORDER, "learning_rate": "adaptive", "eta0": 0.1, "tol": 1e-3, "n_iter_no_change": 3,
    }  # fmt: skip
    ours, theirs = (kind(**how).fit(X, y) for kind in (LinearRegressor, SGDRegressor))
    assert ours.n_iter_ == theirs.n_iter_ > 8 * 3
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4)
    constant = LinearRegressor(**(how | {"learning_rate": "constant"})).fit(X, y)
    assert constant.n_iter_ < ours.n_iter_


@pytest.mark.parametrize("load", [load_breast_cancer, load_digits])
@pytest.mark.parametrize("learning_rate", ["adagrad", "optimal"])
@pytest.mark.parametrize("loss", NEW_LOSSES)
def test_decisions_are_as_good_as_scikit_learns(loss: str, learning_rate: str, load: Any) -> None:
    X, y = load(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0, stratify=y)
    scaler = StandardScaler().fit(X_train)
    X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)
    ours = LinearClassifier(loss, learning_rate=learning_rate, random_state=0)
    theirs = SGDClassifier(loss, random_state=0)
    scores = [model.fit(X_train, y_train).score(X_test, y_test) for model in (ours, theirs)]
    assert scores[0] > scores[1] - 0.02


@pytest.mark.parametrize("number", [2, 4])
def test_probabilities_of_modified_huber_are_scikit_learns(number: int) -> None:
    X, _ = data()
    y = np.arange(len(X)) % number
    X[:, 0] += y
    ours = LinearClassifier("modified_huber", random_state=0).fit(X, y)
    theirs = SGDClassifier("modified_huber", random_state=0).fit(X, y)
    theirs.coef_, theirs.intercept_ = ours.coef_.copy(), ours.intercept_.copy()
    far = np.vstack([X, 100 * X])  # where all classes may get 0
    np.testing.assert_allclose(ours.predict_proba(far), theirs.predict_proba(far), atol=1e-12)
    logarithms = ours.predict_log_proba(far)
    assert np.isneginf(logarithms).any()
    np.testing.assert_allclose(np.exp(logarithms), ours.predict_proba(far), atol=1e-12)


@pytest.mark.parametrize("kind", [LinearClassifier, LinearRegressor])
@pytest.mark.parametrize("learning_rate", [*RATES, "adagrad", "ftrl", "inverse"])
def test_a_warm_start_goes_on_as_one_longer_fit(learning_rate: str, kind: Any) -> None:
    X, y = data()
    how: dict[str, Any] = {"learning_rate": learning_rate, "shuffle": False, "tol": None}
    how |= {"eta0": 0.05, "alpha": 100 if learning_rate == "optimal" else 0.01}
    whole = kind(max_iter=6, **how).fit(X, y)
    parts = kind(max_iter=2, warm_start=True, **how)
    for _ in range(3):
        assert parts.fit(X, y).n_iter_ == 2
    np.testing.assert_array_equal(parts.coef_, whole.coef_)
    np.testing.assert_array_equal(parts.intercept_, whole.intercept_)
    assert parts.t_ == whole.t_
    once = kind(max_iter=2, **how).fit(X, y)
    again = parts.set_params(warm_start=False).fit(X, y)
    np.testing.assert_array_equal(again.coef_, once.coef_)


@pytest.mark.parametrize("solver", ["saga", "svrg"])
def test_a_warm_start_of_an_exact_solver_needs_fewer_passes(solver: str) -> None:
    X, y = data()
    how: dict[str, Any] = {"solver": solver, "alpha": 1e-3, "random_state": 0}
    model = LinearClassifier(tol=1e-5, max_iter=5000, warm_start=True, **how)
    passes = model.fit(X, y).n_iter_
    optimum = model.coef_.copy()
    begun = clone(model).fit(X, y, coef_init=optimum, intercept_init=model.intercept_)
    for again in (model.fit(X, y), begun):
        assert again.n_iter_ < 0.8 * passes
        np.testing.assert_allclose(again.coef_, optimum, rtol=1e-2)


@pytest.mark.parametrize("learning_rate", ["constant", "adagrad", "ftrl"])
def test_weights_start_at_the_given_values(learning_rate: str) -> None:
    """The given weights also stay the same if the learning rate is nearly 0."""
    X, y = data()
    how: dict[str, Any] = {"learning_rate": learning_rate, "eta0": 1e-12, "max_iter": 1}
    model = LinearRegressor(penalty=None, tol=None, **how)
    model.fit(X, y, coef_init=np.arange(6), intercept_init=3)
    np.testing.assert_allclose(model.coef_, np.arange(6), atol=1e-5)
    assert model.intercept_ == pytest.approx([3], abs=1e-5)
    labels = np.arange(len(y)) % 3
    several = LinearClassifier(penalty=None, tol=None, **how)
    several.fit(X, labels, coef_init=np.arange(18).reshape(3, 6), intercept_init=[1, 2, 3])
    np.testing.assert_allclose(several.coef_, np.arange(18).reshape(3, 6), atol=1e-4)
    np.testing.assert_allclose(several.intercept_, [1, 2, 3], atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_starts_are_scikit_learns(kind: str) -> None:
    X, y = data()
    pair = {
        "classifier": (LinearClassifier("hinge", **IN_ORDER), SGDClassifier("hinge", **IN_ORDER)),
        "regressor": (LinearRegressor(**IN_ORDER), SGDRegressor(**IN_ORDER)),
    }[kind]
    ours, theirs = (
        model.set_params(max_iter=2).fit(X, y, coef_init=np.arange(6) / 5, intercept_init=0.5)
        for model in pair
    )
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-4)


@pytest.mark.parametrize("kind", [LinearClassifier, LinearRegressor])
def test_sparsified_weights_predict_the_same(kind: Any) -> None:
    X, y = data()
    X = np.hstack([X, np.zeros((len(X), 30))])
    y = np.arange(len(y)) % 3 if kind is LinearClassifier else y
    model = kind(penalty="l1", alpha=0.01, random_state=0).fit(X, y)
    dense, expected = model.coef_, model.predict(X)
    assert model.sparsify() is model
    assert sparse.issparse(model.coef_)
    assert model.coef_.nnz == np.count_nonzero(dense) < dense.size / 2
    for form in (X, sparse.csr_array(X)):
        np.testing.assert_allclose(model.predict(form), expected, rtol=1e-12)
        np.testing.assert_allclose(pickle.loads(pickle.dumps(model)).predict(form), expected)
    assert model.sparsify().densify() is model
    np.testing.assert_array_equal(model.coef_, dense)
    assert model.coef_.shape == dense.shape
    np.testing.assert_array_equal(model.densify().coef_, dense)
    model.sparsify().partial_fit(X, y)
    assert not sparse.issparse(model.coef_)


@pytest.mark.parametrize(
    ("how", "start", "message"),
    [
        ({"warm_start": "yes"}, {}, "warm_start: expected True or False, got 'yes'"),
        ({"verbose": -1}, {}, "verbose: expected an integer >= 0, got -1"),
        ({"power_t": -0.5}, {}, "power_t: expected a finite number of at least 0, got -0.5"),
        ({"learning_rate": "pa1"}, {}, "learning_rate: expected one of 'constant', 'optimal', "),
        (
            {"learning_rate": "optimal", "alpha": 0},
            {},
            "alpha: expected a number above 0 with learning_rate='optimal'.*got 0; take another",
        ),
        ({"solver": "saga", "loss": "perceptron"}, {}, "loss: expected one of .*got 'perceptron'"),
        ({"solver": "dual", "loss": "perceptron"}, {}, "loss: expected one of .*got 'perceptron'"),
        ({"solver": "dual", "warm_start": True}, {}, "warm_start: expected .* with solver='dual'"),
        ({"solver": "dual"}, {"coef_init": np.ones(6)}, "coef_init: expected None with solver"),
        (
            {},
            {"coef_init": np.ones(5)},
            r"coef_init: expected numbers of shape \(1, 6\) or \(6,\), got float64 of shape \(5,\)",
        ),
        ({}, {"coef_init": ["a"] * 6}, "coef_init: expected numbers of shape .*got <U1 of shape"),
        ({}, {"coef_init": [[1], [1, 2]]}, "coef_init: expected an array of numbers, got: "),
        ({}, {"coef_init": np.full(6, np.nan)}, "coef_init: expected finite numbers, got NaN or"),
        ({}, {"coef_init": np.full(6, 1e300)}, "coef_init: expected values within the range of"),
        ({}, {"intercept_init": [1, 2]}, r"intercept_init: expected .*\(1,\) or \(\), got int64"),
        (
            {"fit_intercept": False},
            {"intercept_init": 1.0},
            r"intercept_init: expected None with fit_intercept=False, got 1\.0; set fit_intercept",
        ),
    ],
)
def test_bad_input_is_named(how: dict[str, Any], start: dict[str, Any], message: str) -> None:
    X, y = data()
    model = LinearClassifier(**how)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, **start)
    assert not hasattr(model, "coef_")


def test_a_warm_start_keeps_classes_and_features() -> None:
    X, y = data()
    model = LinearClassifier(warm_start=True, random_state=0).fit(X, y)
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=r"y: expected the labels of the last call, \[0 1\], with"):
        model.fit(X, np.arange(len(y)) % 3)
    with pytest.raises(ValueError, match="X has 5 features"):
        model.fit(X[:, :5], y)
    np.testing.assert_array_equal(model.coef_, before)
    with pytest.raises(AttributeError, match="predict_proba") as error:
        LinearClassifier("perceptron").fit(X, y).predict_proba(X)
    assert "expected loss='log_loss' or 'modified_huber'" in str(error.value.__cause__)
