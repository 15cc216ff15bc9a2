"""Cost of bit-reproducible linear models: sync="ordered" beside hogwild.

Examples of ten columns out of a million, drawn evenly, so that few of a block share one (where most
do, as in text, a single thread trains). A time is that of a whole fit of twenty passes, with the
search for examples that share a column.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from asyncopt.sparse import LinearClassifier
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay

pytestmark = pytest.mark.benchmark(timer=replay)

ROWS, COLUMNS, ENTRIES, PASSES = 200_000, 1_000_000, 10, 20


def apart(rows: int) -> tuple[Any, Any]:
    """Examples of which few share a column, labelled by a linear model."""
    random = np.random.default_rng(0)
    columns = random.integers(0, COLUMNS, (rows, ENTRIES)).astype(np.int32)
    values = random.standard_normal(columns.size, np.float32)
    coords = np.repeat(np.arange(rows), ENTRIES), columns.ravel()
    X = sparse.csr_array((values, coords), shape=(rows, COLUMNS))
    return X, X @ random.standard_normal(COLUMNS) > 0


def test_ordered(benchmark: Any, quick: bool, say: Say) -> None:
    X, y = apart(ROWS // 20 if quick else ROWS)
    losses: dict[str, float] = {}
    models: dict[str, Any] = {}

    def fit(name: str, sync: str, threads: int) -> Callable[[], float]:
        def sample() -> float:
            model = LinearClassifier(
                sync=sync, n_threads=threads, fit_intercept=False, max_iter=PASSES, tol=None,
                learning_rate="constant", eta0=0.1, random_state=0,
            )  # fmt: skip
            begin = time.perf_counter()
            models[name] = model.fit(X, y)
            return float((time.perf_counter() - begin) / (PASSES * X.nnz))

        return sample

    contenders = {
        f"{sync}, {threads} thread{'s' * (threads > 1)}": (sync, threads)
        for sync in ("ordered", "hogwild", "atomic")
        for threads in (2, 1)
    }
    comparison = interleave(
        {name: fit(name, *which) for name, which in contenders.items()}, 3 if quick else ROUNDS
    )
    for name, model in models.items():
        margins = np.where(y, 1, -1) * model.decision_function(X)
        losses[name] = float(np.logaddexp(0, -margins).mean())
    two = "ordered, 2 threads"
    lines = record(
        benchmark,
        comparison,
        [Pair(two, name) for name in contenders if name != two],
        suite="ordered",
        case={"rows": X.shape[0], "columns": COLUMNS, "passes": PASSES},
        rows={
            name: {"nonzeros_per_second": 1 / comparison.median(name), "objective": losses[name]}
            for name in contenders
        },
    )
    for line in lines:
        say(line)
    np.testing.assert_array_equal(models[two].coef_, models["ordered, 1 thread"].coef_)
