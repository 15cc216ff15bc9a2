"""Logistic regression on sparse rows: nonzeros/s of every sync at 1 and 2 threads.

Beside scikit-learn's SGDClassifier, with the same steps (a constant learning rate) on the same
data, made up in the shape of RCV1. Contenders pass over the data in turns; all have made as many
passes when their objectives are compared. "unshared" is the floor: each thread has weights of its
own, which are averaged after a pass, so that it learns more slowly.

`test_fit` times a whole call of fit, including the copy of the data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import SGDClassifier

from asyncopt.sparse import CustomLoss, LinearClassifier, bag_of_words, make_like, syncs
from asyncopt.sparse.blocks import Blocks
from asyncopt.sparse.examples import ColumnSums, Examples
from asyncopt.sparse.matrices import canonical
from asyncopt.sparse.settings import Settings
from asyncopt.sparse.state import State
from asyncopt.sparse.training import train
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

ALPHA, ETA0 = 1e-6, 0.1
SKLEARN = "scikit-learn SGDClassifier"
FLOOR = "unshared"
SLACK = 0.005
"""By how much a contender's objective may exceed scikit-learn's, as a share of it."""

Data = tuple[Any, npt.NDArray[np.int64]]


@pytest.fixture(scope="module")
def data(quick: bool) -> Data:
    return make_like("rcv1", rows=5000 if quick else None)


def objective(
    weights: npt.NDArray[Any], intercept: float, data: Data, loss: str = "log_loss"
) -> float:
    """Mean loss plus the penalty, in float64."""
    X, y = data
    margins = y * (X @ weights.astype(np.float64) + intercept)
    losses = np.maximum(0, 1 - margins) if loss == "hinge" else np.logaddexp(0, -margins)
    return float(losses.mean() + ALPHA / 2 * (weights**2).sum())


class Ours:
    """Passes of one model under a sync, on a number of threads."""

    def __init__(
        self,
        data: Data,
        sync: str,
        threads: int,
        prepared: Any,
        loss: str | CustomLoss = "log_loss",
    ) -> None:
        self._sums, self._examples, self._targets = prepared
        self._settings = Settings(loss, "scaled", ETA0, 0.0, 0.0, ALPHA, 0.0)
        self._state = State(len(self._sums.counts))
        self._nonzeros = data[0].nnz
        self._sync, self._threads = sync, threads
        self._random = np.random.RandomState(0)

    def __call__(self) -> float:
        begin = time.perf_counter()
        train(
            self._state,
            self._examples,
            self._sums,
            self._targets,
            None,
            self._settings,
            Blocks.of(len(self._examples), shuffled=True),
            passes=1,
            patience=None,
            random=self._random,
            threads=self._threads,
            sync=self._sync,
        )
        return float((time.perf_counter() - begin) / self._nonzeros)

    def objective(self, data: Data) -> float:
        weights, loss = self._state.weights, self._settings.loss
        return objective(weights[:-1], float(weights[-1]), data, str(loss))


class Theirs:
    """Passes of scikit-learn's SGDClassifier, each over the rows in an order of its own."""

    def __init__(self, data: Data, loss: str = "log_loss") -> None:
        self._data, self._loss = data, loss
        self._model = SGDClassifier(
            loss=loss, alpha=ALPHA, learning_rate="constant", eta0=ETA0, random_state=0
        )

    def __call__(self) -> float:
        X, y = self._data
        begin = time.perf_counter()
        self._model.partial_fit(X, y, classes=[-1, 1])
        return float((time.perf_counter() - begin) / X.nnz)

    def objective(self, data: Data) -> float:
        model = self._model
        return objective(model.coef_[0], float(model.intercept_[0]), data, self._loss)


def prepare(data: Data) -> tuple[ColumnSums, Examples, npt.NDArray[np.float32]]:
    """Preparation that fit does before its first pass."""
    X, y = canonical(data[0]), data[1]
    sums = ColumnSums(X.shape[1], intercept=True)
    sums.add(X, slow_intercept=True)
    order = np.random.default_rng(0).permutation(X.shape[0])
    return sums, Examples(X, sums, order, threads=2), y[order].astype(np.float32)


def test_passes(benchmark: Any, data: Data, quick: bool, say: Say) -> None:
    prepared = prepare(data)
    contenders: dict[str, Ours | Theirs] = {
        f"{sync}, {threads} thread{'s' * (threads > 1)}": Ours(data, sync, threads, prepared)
        for threads in (2, 1)
        for sync in sorted(syncs(), key="replicated".__ne__)
        if sync != "ordered"  # the intercept, in all examples, would leave it to one thread
    }
    contenders[SKLEARN] = Theirs(data)
    for contender in contenders.values():
        contender()  # warm-up
    comparison = interleave(contenders, 3 if quick else ROUNDS)
    objectives = {name: contender.objective(data) for name, contender in contenders.items()}
    two, one = "replicated, 2 threads", "replicated, 1 thread"
    lines = record(
        benchmark,
        comparison,
        [
            Pair(two, SKLEARN, 6.0),
            Pair(two, f"{FLOOR}, 2 threads", 0.9),
            Pair(two, "hogwild, 2 threads", 1.7),
            Pair(two, "atomic, 2 threads"),
            Pair(two, "mutex, 2 threads"),
            Pair(two, one),
            Pair(one, SKLEARN),
        ],
        suite="linear",
        case={"data": "like RCV1", "rows": data[0].shape[0], "nonzeros": data[0].nnz},
        rows={
            name: {"nonzeros_per_second": 1 / comparison.median(name), "objective": reached}
            for name, reached in objectives.items()
        },
    )
    for name, reached in objectives.items():
        say(f"{name}: {1e-6 / comparison.median(name):,.0f}M nonzeros/s, objective {reached:.4f}")
    for line in lines:
        say(line)
    for name, reached in objectives.items():
        if not name.startswith(FLOOR):
            assert reached < objectives[SKLEARN] * (1 + SLACK), name


def test_text(benchmark: Any, quick: bool, say: Say) -> None:
    """The hinge loss, as of the Hogwild! paper's program, on the words of installed packages."""
    X, labels = bag_of_words(("scipy", "sklearn") if quick else ("scipy", "sklearn", "torch"))
    data = X, np.where(labels == 0, -1, 1)
    prepared = prepare(data)
    contenders: dict[str, Ours | Theirs] = {
        f"{sync}, {threads} thread{'s' * (threads > 1)}": Ours(
            data, sync, threads, prepared, loss="hinge"
        )
        for threads in (2, 1)
        for sync in ("replicated", "hogwild")
    }
    contenders[SKLEARN] = Theirs(data, "hinge")
    for contender in contenders.values():
        contender()  # warm-up
    comparison = interleave(contenders, 3 if quick else ROUNDS)
    lines = record(
        benchmark,
        comparison,
        [Pair("replicated, 2 threads", name) for name in list(contenders)[1:]],
        suite="linear text",
        case={"rows": X.shape[0], "columns": X.shape[1], "nonzeros": X.nnz},
        rows={
            name: {
                "nonzeros_per_second": 1 / comparison.median(name),
                "objective": contender.objective(data),
            }
            for name, contender in contenders.items()
        },
    )
    for name, contender in contenders.items():
        speed = 1e-6 / comparison.median(name)
        say(f"{name}: {speed:,.0f}M nonzeros/s, objective {contender.objective(data):.4f}")
    for line in lines:
        say(line)


def test_fit(benchmark: Any, data: Data, quick: bool, say: Say) -> None:
    X, y = data
    passes = 10
    how: dict[str, Any] = {"alpha": ALPHA, "learning_rate": "constant", "eta0": ETA0, "tol": None}
    ours, theirs = "asyncopt, 2 threads", SKLEARN
    models = {
        ours: LinearClassifier(n_threads=2, max_iter=passes, random_state=0, **how),
        theirs: SGDClassifier(loss="log_loss", max_iter=passes, random_state=0, **how),
    }

    def sampler(name: str) -> Callable[[], float]:
        def sample() -> float:
            begin = time.perf_counter()
            models[name].fit(X, y)
            return time.perf_counter() - begin

        return sample

    comparison = interleave({name: sampler(name) for name in models}, 3 if quick else ROUNDS)
    objectives = {
        name: objective(model.coef_[0], float(model.intercept_[0]), data)
        for name, model in models.items()
    }
    lines = record(
        benchmark,
        comparison,
        [Pair(ours, theirs)],
        suite="linear fit",
        case={"data": "like RCV1", "rows": X.shape[0], "passes": passes},
        rows={name: {"objective": reached} for name, reached in objectives.items()},
    )
    for line in lines:
        say(line)
    assert objectives[ours] < objectives[theirs] * (1 + SLACK)
