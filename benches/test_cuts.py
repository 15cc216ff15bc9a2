"""Graph cuts: edges/s under every sync at 1 and 2 threads.

On voxels in the shape of the Hogwild! paper's abdomen, cut in two. A time is that of a whole call
of fit, rounding included.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from asyncopt import _core
from asyncopt.sparse import GraphCut, make_graph_like
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

PASSES = 300


def test_cuts(benchmark: Any, quick: bool, say: Say) -> None:
    graph = make_graph_like("abdomen", scale=2e-5 if quick else 2e-4)
    X, y = graph.problem()
    cuts: dict[str, float] = {}

    def fit(name: str, sync: str, threads: int) -> Callable[[], float]:
        def sample() -> float:
            model = GraphCut(
                max_iter=PASSES, tol=None, sync=sync, n_threads=threads, random_state=0
            )
            begin = time.perf_counter()
            model.fit(X, y)
            seconds = time.perf_counter() - begin
            cuts[name] = model.cut_
            return seconds / (PASSES * len(graph.weights))

        return sample

    contenders: dict[str, Callable[[], float]] = {}
    pairs = []
    for sync in _core.cut_syncs():
        one, two = f"{sync}, 1 thread", f"{sync}, 2 threads"
        contenders[two], contenders[one] = fit(two, sync, 2), fit(one, sync, 1)
        pairs.append(Pair(two, one))
    fastest, *others = contenders
    comparison = interleave(contenders, 3 if quick else ROUNDS)
    lines = record(
        benchmark,
        comparison,
        [*(Pair(fastest, other) for other in others), *pairs[1:]],
        suite="cuts",
        case={"data": "abdomen", "edges": len(graph.weights), "passes": PASSES},
        rows={
            name: {"edges_per_second": 1 / comparison.median(name), "cut": cut}
            for name, cut in cuts.items()
        },
    )
    for name, cut in cuts.items():
        say(f"{name}: {1e-6 / comparison.median(name):.1f}M edges/s, cut {cut:.1f}")
    for line in lines:
        say(line)
    assert max(cuts.values()) <= 1.01 * min(cuts.values())
