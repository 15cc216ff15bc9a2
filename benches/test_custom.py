"""Logistic regression with the loss built in, and with the same loss written in Python.

Beside the loop that people write with numba today: `prange` over the rows of a shared CSR matrix,
weights changed by plain `+=` (Hogwild), with the same steps in the same blocks of rows. Contenders
pass over the data in turns; all have made as many passes when their objectives are compared.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numba
import numpy as np
import pytest

from asyncopt.sparse import CustomLoss, make_like
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay
from benches.test_linear import ALPHA, ETA0, SLACK, Data, Ours, objective, prepare

pytestmark = pytest.mark.benchmark(timer=replay)

NUMBA = "a loop in numba"


@numba.njit()
def logistic(prediction: float, target: float) -> tuple[float, float]:
    margin = target * prediction
    e = math.exp(-abs(margin))
    wrong = (1 if margin < 0 else e) / (1 + e)
    return math.log1p(e) + max(-margin, 0), -target * wrong


@numba.njit(parallel=True, fastmath=True)
def hogwild(
    begin: Any, columns: Any, values: Any, targets: Any, spacing: Any, weights: Any,
    order: Any, block: int,
) -> float:  # fmt: skip
    losses = 0.0
    rows = len(begin) - 1
    for place in numba.prange(len(order)):
        first = order[place] * block
        for i in range(first, min(first + block, rows)):
            prediction = np.float32(0)
            for k in range(begin[i], begin[i + 1]):
                prediction += weights[columns[k]] * values[k]
            loss, derivative = logistic(float(prediction), targets[i])
            losses += loss
            step = np.float32(ETA0 * derivative)
            for k in range(begin[i], begin[i + 1]):
                u = columns[k]
                decay = np.float32(1) + np.float32(ETA0 * ALPHA) * spacing[u]
                weights[u] = (weights[u] - step * values[k]) / decay
    return losses


class Numba:
    """Passes of the loop in numba, on a number of threads."""

    def __init__(self, data: Data, threads: int, prepared: Any) -> None:
        sums, examples, targets = prepared
        self._columns = examples.columns_by_frequency
        self._weights = np.zeros(len(self._columns), np.float32)
        self._arguments = (
            examples.begin,
            examples.columns,
            examples.values,
            targets,
            sums.spacing()[self._columns],
            self._weights,
        )
        self._block = min(max(len(examples) // 64, 1), 512)
        self._blocks = -(-len(examples) // self._block)
        self._threads = threads
        self._random = np.random.RandomState(0)
        self._nonzeros = data[0].nnz

    def __call__(self) -> float:
        numba.set_num_threads(self._threads)
        order = self._random.permutation(self._blocks)
        begin = time.perf_counter()
        hogwild(*self._arguments, order, self._block)
        return float((time.perf_counter() - begin) / self._nonzeros)

    def objective(self, data: Data) -> float:
        weights = np.empty_like(self._weights)
        weights[self._columns] = self._weights
        return objective(weights[:-1], float(weights[-1]), data)


def test_custom(benchmark: Any, quick: bool, say: Say) -> None:
    data = make_like("rcv1", rows=5000 if quick else None)
    prepared = prepare(data)
    custom = CustomLoss(logistic, curvature=0.25)
    contenders: dict[str, Ours | Numba] = {}
    pairs = []
    for threads in (2, 1):
        on = f"{threads} thread{'s' * (threads > 1)}"
        for sync in ("replicated", "hogwild"):
            ours, built_in = f"custom, {sync}, {on}", f"built in, {sync}, {on}"
            contenders[ours] = Ours(data, sync, threads, prepared, custom)
            contenders[built_in] = Ours(data, sync, threads, prepared)
            pairs.append(Pair(ours, built_in, 1 / 1.3))
        contenders[f"{NUMBA}, {on}"] = Numba(data, threads, prepared)
        pairs += [
            Pair(f"custom, {sync}, {on}", f"{NUMBA}, {on}") for sync in ("replicated", "hogwild")
        ]
    for contender in contenders.values():
        contender()  # warm-up; compiles
    comparison = interleave(contenders, 3 if quick else ROUNDS)
    objectives = {name: contender.objective(data) for name, contender in contenders.items()}
    lines = record(
        benchmark,
        comparison,
        pairs,
        suite="custom",
        case={"data": "like RCV1", "rows": data[0].shape[0], "nonzeros": data[0].nnz},
        rows={
            name: {"nonzeros_per_second": 1 / comparison.median(name), "objective": reached}
            for name, reached in objectives.items()
        },
    )
    for line in lines:
        say(line)
    for name, reached in objectives.items():
        say(f"{name}: objective {reached:.4f}")
        assert reached < objectives["built in, hogwild, 1 thread"] * (1 + 2 * SLACK), name
