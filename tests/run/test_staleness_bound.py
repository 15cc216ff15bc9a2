"""``max_staleness``: the staleness in the stores' ledgers, and equality with serial SGD."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import asyncopt
from asyncopt.run import Run, launch
from asyncopt.run.delays import Delay

from . import loops

# A power of two: torch may or may not round between its multiplication and its addition.
LR = 0.0625
JITTER = Delay.exponential(0.001, seed=7)  # enough for pushes to overtake each other


def train(sync: str = "mutex", **options: Any) -> tuple[torch.nn.Module, Run]:
    model, x, y = loops.regression()
    optimizer = asyncopt.SGD(model.parameters(), lr=LR, sync=sync)
    run = launch(loops.descend, (model, optimizer, (x, y)), threads_per_worker=1, **options)
    return model, run


def worst(run: Run) -> int:
    """The largest staleness of any push, by the store's own count."""
    staleness = run.ledger.staleness
    assert staleness.count == run.ledger.pushes
    return int(staleness.edges[np.flatnonzero(staleness.counts)[-1]])


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hogwild", "atomic", "striped", "mutex", "seqlock", "leashed"])
@pytest.mark.parametrize("bound", [0, 1, 2])
def test_no_push_is_staler_than_the_bound(sync: str, bound: int) -> None:
    _, run = train(sync, workers=4, mode="thread", max_staleness=bound, delay=JITTER)
    assert run.ledger.pushes == 45
    assert worst(run) == bound  # and workers make use of what they may


def test_without_a_bound_pushes_are_staler() -> None:
    _, run = train(workers=4, mode="thread", delay=JITTER)
    assert worst(run) > 2


@pytest.mark.parametrize("bound", [0, 2])
def test_the_bound_holds_between_processes(bound: int) -> None:
    _, run = train(workers=3, max_staleness=bound, delay=JITTER)
    assert run.ledger.pushes == 45
    assert worst(run) <= bound


def serial() -> torch.nn.Module:
    """What torch learns from the same batches in the order of one worker."""
    model, x, y = loops.regression()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    loops.descend(asyncopt.Worker(0, 1, lambda timeout: None), model, optimizer, (x, y))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["hogwild", "atomic", "mutex", "seqlock", "leashed"])
@pytest.mark.parametrize("workers", [1, 3])
def test_none_equals_serial_sgd_bit_for_bit(sync: str, workers: int) -> None:
    expected = serial()
    model, run = train(sync, workers=workers, mode="thread", max_staleness=0, delay=JITTER)
    assert sum(run.results) == 45
    for got, parameter in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(got, parameter)


@pytest.mark.parametrize("sync", ["mutex", "leashed"])
def test_none_equals_serial_sgd_between_processes(sync: str) -> None:
    model, run = train(sync, workers=2, max_staleness=0)
    assert min(run.results) > 0  # both took part
    for got, parameter in zip(model.parameters(), serial().parameters(), strict=True):
        assert torch.equal(got, parameter)


@pytest.mark.parametrize("bound", [None, 0, 3])
def test_one_worker_is_never_late(bound: int | None) -> None:
    model, run = train(workers=1, mode="thread", max_staleness=bound)
    assert worst(run) == 0
    for got, parameter in zip(model.parameters(), serial().parameters(), strict=True):
        assert torch.equal(got, parameter)


@pytest.mark.parametrize("bound", [0, 1])
@pytest.mark.parametrize("sync", ["hogwild", "leashed"])
def test_loops_without_batches(sync: str, bound: int) -> None:
    model, *_ = loops.regression()
    before = model.state_dict()["bias"].clone()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync=sync)
    options: dict[str, Any] = {"mode": "thread", "max_staleness": bound, "delay": JITTER}
    run = launch(loops.descend_alone, (model, optimizer, 10), workers=3, **options)
    assert (run.ledger.pushes, worst(run)) == (30, bound)
    torch.testing.assert_close(model.state_dict()["bias"], before - 30)


def test_a_push_outside_of_any_turn_is_refused() -> None:
    model, *_ = loops.regression()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    args = (model, optimizer)
    with pytest.raises(asyncopt.WorkerError, match=r"max_staleness: expected a push of what was"):
        launch(loops.push_out_of_turn, args, workers=1, mode="thread", max_staleness=2)
    assert optimizer.ledger().pushes == 0
    launch(loops.push_out_of_turn, args, workers=1, mode="thread")
    assert optimizer.ledger().pushes == 1


def test_workers_that_meet_within_their_turns_do_not_wait_for_each_other() -> None:
    model, *_ = loops.regression()
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0)
    options: dict[str, Any] = {"mode": "thread", "max_staleness": 0, "timeout": 60}
    run = launch(loops.meet_within_turns, (model, optimizer, 5), workers=3, **options)
    assert (run.ledger.pushes, worst(run)) == (15, 0)
