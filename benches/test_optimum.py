"""Linear models to the optimum: seconds until the objective is within 1e-4 of the least.

Beside liblinear (scikit-learn's LinearSVC and LogisticRegression) and scikit-learn's SAGA, on data
made up in the shape of RCV1, without an intercept, which liblinear would penalize; and with
Nesterov's momentum beside without, on an ill-conditioned problem. Each contender makes as many
passes as it needs, found before anything is timed; a sample is a whole call of fit.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from asyncopt.sparse import LinearClassifier, make_like
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = [
    pytest.mark.benchmark(timer=replay),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]

ALPHA = 1e-5
WITHIN = 1e-4
"""Of the least objective."""
MOST = 4096
"""Passes."""
LIBLINEAR, SAGA = "liblinear", "scikit-learn SAGA"


class Fit:
    """A whole fit of as many passes as bring the objective within reach."""

    def __init__(self, data: Any, loss: str, alpha: float, model: Any, least: float) -> None:
        self._data, self._loss, self._alpha, self._model = data, loss, alpha, model
        self.passes = 1
        self._most = least * (1 + WITHIN)
        enough = 1
        while not self._suffices(enough):
            assert enough < MOST, f"{model}: not within {WITHIN:g} in {enough} passes"
            enough *= 2
        short = enough // 2
        while enough - short > 1:
            middle = (short + enough) // 2
            short, enough = (short, middle) if self._suffices(middle) else (middle, enough)
        self._suffices(enough)
        self.passes = enough

    def _suffices(self, passes: int) -> bool:
        self._model.set_params(max_iter=passes)
        self()
        return self.objective() <= self._most

    def __call__(self) -> float:
        begin = time.perf_counter()
        self._model.fit(*self._data)
        return time.perf_counter() - begin

    def objective(self) -> float:
        return objective(self._data, self._loss, self._alpha, self._model.coef_[0])


def objective(data: Any, loss: str, alpha: float, coef: Any) -> float:
    """Mean loss plus the penalty, in float64."""
    X, y = data
    margins = y * (X @ coef)
    losses = {
        "log_loss": lambda: np.logaddexp(0, -margins),
        "squared_hinge": lambda: np.maximum(0, 1 - margins) ** 2,
    }[loss]()
    return float(losses.mean() + alpha / 2 * (coef**2).sum())


@pytest.mark.parametrize("loss", ["log_loss", "squared_hinge"])
def test_optimum(benchmark: Any, loss: str, quick: bool, say: Say) -> None:
    X, y = data = make_like("rcv1", rows=3000 if quick else None)
    theirs: dict[str, Any] = {"C": 1 / (ALPHA * len(y)), "fit_intercept": False, "random_state": 0}
    models: dict[str, Any] = {
        f"{solver}, {threads} thread{'s' * (threads > 1)}": ours(
            loss, ALPHA, solver=solver, n_threads=threads
        )
        for threads in (2, 1)
        for solver in ("dual", "saga")
    }
    models["dual, 2 threads, atomic"] = ours(loss, ALPHA, solver="dual", n_threads=2, sync="atomic")
    if loss == "log_loss":
        best = LogisticRegression(tol=1e-8, max_iter=10_000, **theirs).fit(X, y)
        models[LIBLINEAR] = LogisticRegression(solver="liblinear", dual=True, tol=1e-12, **theirs)
        models[SAGA] = LogisticRegression(solver="saga", tol=1e-12, **theirs)
    else:
        best = LinearSVC(dual=False, tol=1e-8, max_iter=10_000, **theirs).fit(X, y)
        models[LIBLINEAR] = LinearSVC(tol=1e-12, **theirs)
    more = [Pair("saga, 2 threads", "saga, 1 thread")]
    if SAGA in models:
        more.append(Pair("saga, 2 threads", SAGA))
    case = {"data": "like RCV1", "rows": len(y), "nonzeros": X.nnz, "loss": loss}
    race(benchmark, models, more, data, loss, ALPHA, best, case, quick, say)


def test_ill_conditioned(benchmark: Any, quick: bool, say: Say) -> None:
    """alpha is 1e-2 of an example's part in the curvature, columns are correlated."""
    random = np.random.default_rng(0)
    rows, columns = (400, 40) if quick else (4000, 100)
    X = random.standard_normal((rows, 8)) @ random.standard_normal((8, columns))
    X += 0.3 * random.standard_normal(X.shape)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = np.where(X @ random.standard_normal(columns) > 0, 1, -1)
    alpha = 1e-2 / rows
    C = 1 / (alpha * rows)
    best = LogisticRegression(C=C, fit_intercept=False, tol=1e-10, max_iter=10_000).fit(X, y)
    models = {
        f"{solver}{', Nesterov' * nesterov}": ours(
            "log_loss", alpha, solver=solver, nesterov=nesterov
        )
        for solver in ("dual", "saga")
        for nesterov in (True, False)
    }
    case = {"data": "correlated", "rows": rows, "nonzeros": X.size, "loss": "log_loss, correlated"}
    more = [Pair("saga, Nesterov", "saga")]
    data = X.astype(np.float32), y
    race(benchmark, models, more, data, "log_loss", alpha, best, case, quick, say)


def ours(loss: str, alpha: float, **how: Any) -> LinearClassifier:
    return LinearClassifier(loss, alpha=alpha, fit_intercept=False, tol=None, random_state=0, **how)


def race(
    benchmark: Any,
    models: dict[str, Any],
    more: list[Pair],
    data: Any,
    loss: str,
    alpha: float,
    best: Any,
    case: dict[str, Any],
    quick: bool,
    say: Say,
) -> None:
    """Time the models against the first; all reach the best one's objective."""
    first, *others = models
    pairs = [Pair(first, other) for other in others] + more
    least = objective(data, loss, alpha, best.coef_[0])
    contenders = {name: Fit(data, loss, alpha, model, least) for name, model in models.items()}
    comparison = interleave(contenders, 3 if quick else ROUNDS)
    lines = record(
        benchmark,
        comparison,
        pairs,
        suite="linear optimum",
        case=case,
        rows={
            name: {"passes": fit.passes, "objective": fit.objective()}
            for name, fit in contenders.items()
        },
    )
    for name, fit in contenders.items():
        say(f"{name}: {comparison.median(name):.3g} s, {fit.passes} passes")
    for line in lines:
        say(line)
    for name, fit in contenders.items():
        assert fit.objective() <= least * (1 + 2 * WITHIN), name
