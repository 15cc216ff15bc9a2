"""Bayesian personalized ranking: samples/s at 1 and 2 threads, beside implicit's.

On MovieLens (100,004 ratings, all taken as liked), with as many factors, passes and the same
learning rate and regularization. A time is that of a whole call of fit; the area under the ROC
curve is of a tenth of the entries, held out. implicit draws the items that it compares with by
their popularity, asyncopt evenly as in the paper, so that areas differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from asyncopt.sparse import MatrixFactorization, movielens
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = [
    pytest.mark.benchmark(timer=replay),
    pytest.mark.filterwarnings("ignore"),  # implicit's, of the conversion of its input
]

FACTORS, PASSES = 62, 100
RATE, REGULARIZATION = 0.05, 0.01


def split() -> tuple[Any, Any]:
    """Entries to learn, and a tenth held out."""
    ratings = movielens().ratings
    known = np.random.default_rng(0).random(ratings.nnz) < 0.9
    parts = []
    for mine in (known, ~known):
        coords = tuple(numbers[mine] for numbers in ratings.coords)
        parts.append(sparse.csr_array((ratings.data[mine], coords), shape=ratings.shape))
    return parts[0], parts[1]


def test_bpr(benchmark: Any, quick: bool, say: Say) -> None:
    bpr = pytest.importorskip("implicit.bpr", reason="pip install implicit")
    known, held_out = split()
    passes = 10 if quick else PASSES
    samples = passes * known.nnz
    areas: dict[str, float] = {}

    def ours(name: str, threads: int) -> Callable[[], float]:
        def fit() -> float:
            model = MatrixFactorization(
                "bpr", n_factors=FACTORS, regularization=REGULARIZATION, eta0=RATE,
                max_iter=passes, n_threads=threads, random_state=0,
            )  # fmt: skip
            begin = time.perf_counter()
            model.fit(known)
            seconds = time.perf_counter() - begin
            areas[name] = model.score(held_out, seen=known)
            return float(seconds / samples)

        return fit

    def theirs(name: str, threads: int) -> Callable[[], float]:
        def fit() -> float:
            model = bpr.BayesianPersonalizedRanking(
                factors=FACTORS, regularization=REGULARIZATION, learning_rate=RATE,
                iterations=passes, num_threads=threads, random_state=0,
            )  # fmt: skip
            matrix = sparse.csr_matrix(known)
            begin = time.perf_counter()
            model.fit(matrix, show_progress=False)
            seconds = time.perf_counter() - begin
            judge = MatrixFactorization("bpr", max_iter=1).fit(known)
            judge.user_factors_, judge.item_factors_ = model.user_factors, model.item_factors
            judge.item_biases_ = np.zeros(known.shape[1], np.float32)  # theirs are factors
            areas[name] = judge.score(held_out, seen=known)
            return float(seconds / samples)

        return fit

    contenders: dict[str, Callable[[], float]] = {}
    for threads in (2, 1):
        on = f"{threads} thread{'s' * (threads > 1)}"
        contenders[f"asyncopt, {on}"] = ours(f"asyncopt, {on}", threads)
        contenders[f"implicit, {on}"] = theirs(f"implicit, {on}", threads)
    comparison = interleave(contenders, 3 if quick else ROUNDS)
    two, one = "asyncopt, 2 threads", "asyncopt, 1 thread"
    lines = record(
        benchmark,
        comparison,
        [
            Pair(two, "implicit, 2 threads", 1.5),
            Pair(two, "implicit, 1 thread", 1.5),
            Pair(two, one),
            Pair(one, "implicit, 1 thread"),
        ],
        suite="ranking",
        case={"data": "MovieLens", "entries": known.nnz, "passes": passes},
        rows={
            name: {"samples_per_second": 1 / comparison.median(name), "area": area}
            for name, area in areas.items()
        },
    )
    for name, area in areas.items():
        say(f"{name}: {1e-6 / comparison.median(name):.1f}M samples/s, area {area:.4f}")
    for line in lines:
        say(line)
    assert areas[two] > areas["implicit, 2 threads"] - 0.01
