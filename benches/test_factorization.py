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

import pytest

from asyncopt.studies.sparse.factors import Ranking
from asyncopt.studies.sparse.peers import ImplicitBpr
from asyncopt.studies.sparse.problem import Settings, SparseComparison
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = [
    pytest.mark.benchmark(timer=replay),
    pytest.mark.filterwarnings("ignore"),  # implicit's, of the conversion of its input
]

PASSES = 100


def test_bpr(benchmark: Any, quick: bool, say: Say) -> None:
    pytest.importorskip("implicit", reason="pip install implicit")
    problem, implicit = Ranking(), ImplicitBpr(Ranking.factors, Ranking.regularization)
    data = problem.load(
        SparseComparison((problem.name,), (), (), 1, None, None, seed=0, quick=quick)
    )
    settings = Settings(10 if quick else PASSES, problem.lr, seed=0)
    samples = settings.epochs * data.known.nnz
    prepared = implicit.prepare(data)
    areas: dict[str, float] = {}

    def ours(name: str, threads: int) -> Callable[[], float]:
        def fit() -> float:
            begin = time.perf_counter()
            model = problem.fit(data, "hogwild", threads, settings)
            seconds = time.perf_counter() - begin
            areas[name] = problem.score(data, model)["test_area"]
            return float(seconds / samples)

        return fit

    def theirs(name: str, threads: int) -> Callable[[], float]:
        def fit() -> float:
            begin = time.perf_counter()
            model = implicit.fit(prepared, settings, threads)
            seconds = time.perf_counter() - begin
            areas[name] = problem.score(data, implicit.judged(model, data))["test_area"]
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
        case={"data": "MovieLens", "entries": data.known.nnz, "passes": settings.epochs},
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
