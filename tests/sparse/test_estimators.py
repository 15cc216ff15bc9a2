"""The linear estimators: scikit-learn's own checks, and the results beside scikit-learn's."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import make_classification, make_regression
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import parametrize_with_checks

import asyncopt.sparse
from asyncopt.sparse import LinearClassifier, LinearRegressor, syncs
from asyncopt.sparse.settings import LEARNING_RATES

from . import alone

RACING = [sync for sync in syncs() if sync != "ordered"]
"""Examples here share columns, so that "ordered" would leave them to one thread."""
WEIGHTED = (
    "the order in which examples come, and so what stochastic gradient descent finds in a few "
    "passes, depends on their number"
)


def expected_failures(estimator: Any) -> dict[str, str]:
    """As those of scikit-learn's SGDClassifier and SGDRegressor."""
    twice = "compares two fits, which differ with two threads"
    threads = {"check_supervised_y_2d": twice, "check_fit_idempotent": twice}
    return (threads if estimator.n_threads > 1 else {}) | {
        "check_sample_weight_equivalence_on_dense_data": WEIGHTED,
        "check_sample_weight_equivalence_on_sparse_data": WEIGHTED,
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [LinearClassifier(), LinearRegressor()],
    expected_failed_checks=expected_failures,
    xfail_strict=False,
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [LinearClassifier(n_threads=2)],
    expected_failed_checks=expected_failures,
    xfail_strict=False,
)
def test_scikit_learn_checks_with_threads(estimator: Any, check: Any) -> None:
    check(estimator)


def classes(number: int = 2) -> tuple[Any, Any]:
    X, y = make_classification(
        600, 20, n_informative=8, n_classes=number, flip_y=0.1, random_state=number
    )
    return StandardScaler().fit_transform(X), y


def objective(model: Any, X: Any, y: Any, loss: str, l2: float) -> float:
    """The minimized objective, in float64."""
    margin = np.where(y > 0, 1, -1) * model.decision_function(X)
    each = {
        "log_loss": np.logaddexp(0, -margin),
        "hinge": np.maximum(0, 1 - margin),
        "squared_hinge": np.maximum(0, 1 - margin) ** 2,
    }[loss]
    return float(each.mean() + l2 / 2 * (model.coef_**2).sum())


@pytest.mark.parametrize("learning_rate", ["adagrad", "ftrl", "inverse"])
@pytest.mark.parametrize("loss", ["log_loss", "hinge", "squared_hinge"])
def test_the_optimum_is_scikit_learns(loss: str, learning_rate: str) -> None:
    """The same objective, within 1%, as from solvers that go to the optimum."""
    X, y = classes()
    l2 = 0.01
    C = 1 / (l2 * len(y))
    reference = {
        "log_loss": lambda: LogisticRegression(C=C, tol=1e-8, max_iter=1000),
        "hinge": lambda: SVC(C=C, kernel="linear", tol=1e-6),
        "squared_hinge": lambda: LinearSVC(C=C, intercept_scaling=100, max_iter=100_000),
    }[loss]().fit(X, y)
    eta0 = {"inverse": 0.1 if loss == "log_loss" else 0.02}.get(learning_rate, 0.05)
    passes = 400 if learning_rate == "inverse" else 200
    ours = LinearClassifier(
        loss, alpha=l2, learning_rate=learning_rate, eta0=eta0, max_iter=passes, tol=None,
        random_state=0,
    ).fit(X, y)  # fmt: skip
    best, reached = (objective(model, X, y, loss, l2) for model in (reference, ours))
    assert reached == pytest.approx(best, rel=0.01)
    assert reached > best - 1e-3


def rare_columns() -> tuple[Any, Any]:
    """Columns that a tenth to all of the examples have."""
    random = np.random.default_rng(0)
    X = random.standard_normal((800, 12)) * (random.random((800, 12)) < np.linspace(0.1, 1, 12))
    y = X @ random.standard_normal(12) + 0.1 * random.standard_normal(800)
    return X, y


def test_the_penalty_is_that_of_the_whole_objective() -> None:
    """Although only the examples that have a column apply its penalty."""
    X, y = rare_columns()
    alpha = 0.2
    theirs = Ridge(alpha=alpha * len(y), fit_intercept=True).fit(X, y)
    ours = LinearRegressor(
        alpha=alpha, learning_rate="inverse", eta0=0.03, max_iter=400, tol=None, random_state=0
    ).fit(sparse.csr_array(X), y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.03)
    unpenalized = LinearRegressor(penalty=None, max_iter=50, tol=None, random_state=0).fit(X, y)
    assert np.abs(unpenalized.coef_ - theirs.coef_).max() > 0.2


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
def test_elastic_net(l1_ratio: float) -> None:
    X, y = rare_columns()
    theirs = ElasticNet(alpha=0.2, l1_ratio=l1_ratio).fit(X, y)
    ours = LinearRegressor(
        penalty="elasticnet", l1_ratio=l1_ratio, alpha=0.2, learning_rate="inverse", eta0=0.03,
        max_iter=400, tol=None, random_state=0,
    ).fit(X, y)  # fmt: skip
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.04)
    assert (theirs.coef_ == 0).any()


@pytest.mark.slow
@pytest.mark.parametrize(("sync", "threads"), [("hogwild", 1), *((s, 3) for s in RACING)])
def test_zeros_of_the_l1_penalty(sync: str, threads: int) -> None:
    """FTRL's are exactly those of coordinate descent, also where the threads merge copies."""
    X, y = rare_columns()
    theirs = ElasticNet(alpha=0.2, l1_ratio=0.5).fit(X, y)
    ours = LinearRegressor(
        penalty="elasticnet", l1_ratio=0.5, alpha=0.2, learning_rate="ftrl", eta0=0.5, sync=sync,
        n_threads=threads, max_iter=200, tol=None, random_state=0,
    ).fit(X, y)  # fmt: skip
    np.testing.assert_array_equal(ours.coef_ == 0, theirs.coef_ == 0)
    loses = sync == "hogwild" and threads > 1
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=0.2 if loses else 0.05)


def test_the_intercept_learns_as_small_values_do() -> None:
    """At a constant rate an intercept that moved ten times as far as they would swing for ever."""
    random = np.random.default_rng(0)
    X = sparse.random_array((4000, 2000), density=0.02, rng=random, data_sampler=random.random)
    X = normalize(X).tocsr()
    scores = X @ random.standard_normal(2000)
    y = np.where(scores > np.quantile(scores, 0.6), 1, -1)
    how: dict[str, Any] = {
        "loss": "hinge", "alpha": 1e-6, "learning_rate": "constant", "eta0": 0.1, "max_iter": 20,
        "tol": None, "random_state": 0,
    }  # fmt: skip

    def hinge(model: Any) -> float:
        return float(np.maximum(0, 1 - y * model.decision_function(X)).mean())

    ours, theirs = (kind(**how).fit(X, y) for kind in (LinearClassifier, SGDClassifier))
    assert hinge(ours) < 1.1 * hinge(theirs)
    before = ours.coef_.copy(), ours.intercept_.copy()
    ours.set_params(eta0=1e-30).partial_fit(8 * X, y)  # where it has another unit
    np.testing.assert_array_equal(ours.coef_, before[0])
    np.testing.assert_array_equal(ours.intercept_, before[1])


@pytest.mark.parametrize("kind", [LinearClassifier, LinearRegressor])
def test_a_fit_that_fails_leaves_the_model(kind: type[Any]) -> None:
    X, y = classes(3)
    model = kind(random_state=0).fit(X, y)
    before = model.predict(X)
    model.set_params(learning_rate="constant", eta0=1e38)
    with pytest.raises(ValueError, match=r"eta0: expected a learning rate at which .*finite"):
        model.fit(100 * X[:, :5], y == 1)
    np.testing.assert_array_equal(model.predict(X), before)


def test_huber_is_robust() -> None:
    X, y = make_regression(500, 5, noise=1.0, random_state=0)
    y[:50] += 1000
    theirs = HuberRegressor(alpha=0).fit(X, y)
    ours = LinearRegressor("huber", penalty=None, eta0=5, tol=None, max_iter=100, random_state=0)
    np.testing.assert_allclose(ours.fit(X, y).coef_, theirs.coef_, rtol=0.05, atol=1)


def test_several_classes_and_probabilities() -> None:
    X, y = classes(4)
    names = np.array(["a", "b", "c", "d"])[y]
    ours = LinearClassifier(random_state=0).fit(X, names)
    theirs = SGDClassifier(loss="log_loss", random_state=0).fit(X, names)
    assert ours.coef_.shape == (4, 20)
    assert ours.intercept_.shape == (4,)
    assert ours.score(X, names) > theirs.score(X, names) - 0.02
    probabilities = ours.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (ours.classes_[probabilities.argmax(axis=1)] == ours.predict(X)).all()
    with pytest.raises(AttributeError, match="predict_proba"):
        LinearClassifier("hinge").fit(X, y).predict_proba(X)


def test_class_and_sample_weights() -> None:
    """A weight of the class is one of its examples; nothing is learnt from a weight of 0."""
    X, y = classes()
    by_class = LinearClassifier(class_weight={0: 1, 1: 5}, random_state=0).fit(X, y)
    by_sample = LinearClassifier(random_state=0).fit(X, y, np.where(y == 1, 5.0, 1.0))
    np.testing.assert_array_equal(by_class.coef_, by_sample.coef_)
    plain = LinearClassifier(random_state=0).fit(X, y)
    assert by_class.predict(X).mean() > plain.predict(X).mean() + 0.05
    wrong = np.concatenate([y, 1 - y])
    weights = np.repeat([1.0, 0.0], len(y))
    ignored = LinearClassifier(random_state=0).fit(np.vstack([X, X]), wrong, weights)
    assert ignored.score(X, y) > plain.score(X, y) - 0.02
    balanced = LinearClassifier(class_weight="balanced", random_state=0).fit(X, y)
    assert balanced.score(X, y) > 0.7


@pytest.mark.parametrize("sync", syncs())
def test_one_thread_is_reproducible(sync: str) -> None:
    """Bit for bit, and every sync gives the same."""
    X, y = classes()
    models = [
        LinearClassifier(random_state=3, sync=s, max_iter=5, tol=None).fit(X, y)
        for s in (sync, sync, "hogwild")
    ]
    for model in models[1:]:
        np.testing.assert_array_equal(model.coef_, models[0].coef_)
        np.testing.assert_array_equal(model.intercept_, models[0].intercept_)
    other = LinearClassifier(random_state=4, sync=sync, max_iter=5, tol=None).fit(X, y)
    assert (other.coef_ != models[0].coef_).any()


@pytest.mark.slow
@pytest.mark.parametrize("learning_rate", list(LEARNING_RATES))
@pytest.mark.parametrize("sync", RACING)
def test_threads_reach_the_loss_of_one(sync: str, learning_rate: str) -> None:
    X, y = asyncopt.sparse.make_like("rcv1", rows=6000, columns=3000)
    how: dict[str, Any] = {
        "alpha": 1e-5,
        "learning_rate": learning_rate,
        "max_iter": 15,
        "tol": None,
    }
    eta0 = {"adagrad": 0.1, "invscaling": 20}.get(learning_rate, 0.5)
    one, three = (
        LinearClassifier(eta0=eta0, n_threads=n, sync=sync, random_state=0, **how).fit(X, y)
        for n in (1, 3)
    )
    best, reached = (objective(model, X, y, "log_loss", 1e-5) for model in (one, three))
    chance = np.log(2)
    assert reached < best + (0.5 if sync == "unshared" else 0.1) * (chance - best)


@pytest.mark.slow
@pytest.mark.parametrize(("learning_rate", "eta0"), [("constant", 0.01), ("ftrl", 0.5)])
@pytest.mark.parametrize("sync", RACING)
def test_dense_columns_that_all_threads_change(sync: str, learning_rate: str, eta0: float) -> None:
    """Where every example pulls at every weight, merged copies must not overshoot."""
    X, y = rare_columns()
    X, y = np.tile(X, (20, 1)) + 1, np.tile(y, 20)
    model = LinearRegressor(
        penalty=None, learning_rate=learning_rate, eta0=eta0, n_threads=4, sync=sync,
        tol=None, max_iter=20, random_state=0,
    ).fit(X, y)  # fmt: skip
    assert model.score(X, y) > 0.98


@pytest.mark.parametrize("learning_rate", list(LEARNING_RATES))
def test_partial_fit_learns_as_fit_does(learning_rate: str) -> None:
    X, y = classes()
    how: dict[str, Any] = {"shuffle": False, "learning_rate": learning_rate}
    whole = LinearClassifier(max_iter=10, tol=None, **how).fit(X, y)
    parts = LinearClassifier(**how)
    for _ in range(10):
        parts.partial_fit(X, y, classes=[0, 1])
    np.testing.assert_array_equal(whole.coef_, parts.coef_)
    assert whole.t_ == parts.t_ == 10 * len(y)
    again = pickle.loads(pickle.dumps(parts))
    again.partial_fit(X, y)
    parts.partial_fit(X, y)
    np.testing.assert_array_equal(again.coef_, parts.coef_)
    parts.learning_rate = "adagrad" if learning_rate == "ftrl" else "ftrl"
    with pytest.raises(ValueError, match="learning_rate: expected 'ftrl' in every call"):
        parts.partial_fit(X, y)
    assert parts.fit(X, y).t_ > 0
    regressor = LinearRegressor(shuffle=False)
    for _ in range(30):
        regressor.partial_fit(X, X @ np.arange(20))
    assert regressor.score(X, X @ np.arange(20)) > 0.95


def test_unshared_leaders_go_on_with_as_many_threads() -> None:
    """Each counts the penalty for its own examples."""
    X, y = classes()
    how: dict[str, Any] = {"learning_rate": "ftrl", "random_state": 0}
    model = LinearClassifier(sync="unshared", n_threads=3, **how).partial_fit(X, y, classes=[0, 1])
    model.partial_fit(X, y)
    for sync, threads in (("unshared", 2), ("hogwild", 3)):
        model.set_params(sync=sync, n_threads=threads)
        with pytest.raises(ValueError, match=r"n_threads: expected .* 3 of FTRL's .* got [12]; "):
            model.partial_fit(X, y)
    others = LinearClassifier(n_threads=3, **how).partial_fit(X, y, classes=[0, 1])
    assert others.set_params(n_threads=2, sync="hogwild").partial_fit(X, y).score(X, y) > 0.7


def test_early_stopping() -> None:
    X, y = classes()
    assert LinearClassifier(random_state=0).fit(X, y).n_iter_ < 200
    held = LinearClassifier(early_stopping=True, n_iter_no_change=2, random_state=0).fit(X, y)
    assert held.n_iter_ < 50
    assert held.score(X, y) > 0.75
    assert LinearClassifier(tol=None, max_iter=7).fit(X, y).n_iter_ == 7
    values = X @ np.arange(20)
    model = LinearRegressor(early_stopping=True, random_state=0).fit(X, values)
    assert (
        model.score(X, values) > SGDRegressor(random_state=0).fit(X, values).score(X, values) - 0.01
    )


def test_interrupt() -> None:
    """Ctrl-C ends a pass that would take a minute, and the threads with it."""
    program = """
    import _thread, threading
    import numpy as np
    from scipy import sparse
    from asyncopt.sparse import LinearClassifier
    X = sparse.random_array((1000, 500), density=0.1, rng=0, format="csr")
    y = np.arange(1000) % 2
    model = LinearClassifier(n_threads=2, max_iter=10**9, tol=None)
    threading.Timer(1.0, _thread.interrupt_main).start()
    try:
        model.fit(X, y)
    except KeyboardInterrupt:
        print("interrupted")
    """
    assert alone.run(program) == "interrupted\n"
