"""Replicas and a center with real workers, against serial loops in float64."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import ElasticAveraging, LocalSteps

from .jobs import descend, look, train, train_in_rounds, train_in_turns, wander
from .twins import NESTEROV, assert_equal

WORKERS = 2


def problem() -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(3)
    data = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return nn.Linear(4, 2, dtype=torch.float64), data


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_elastic_averaging_of_workers(mode: str) -> None:
    """Two workers that step in a fixed order are Algorithm 1."""
    model, data = problem()
    order = [0, 0, 1, 0, 1, 1, 1, 0, 0, 0, 1, 1]
    xs = [copy.deepcopy(model) for _ in range(2)]
    center = copy.deepcopy(model)
    local = [torch.optim.Adam(x.parameters(), lr=0.1) for x in xs]
    taken = [0, 0]
    for step, i in enumerate(order):
        local[i].zero_grad()
        (xs[i](data[step % 12]) - 1).square().sum().backward()
        if taken[i] % 2 == 0:
            for x, c in zip(xs[i].parameters(), center.parameters(), strict=True):
                move = 0.3 * (x.detach() - c.detach())
                x.data -= move
                c.data += move
        local[i].step()
        taken[i] += 1
    for replica in xs:
        for x, c in zip(replica.parameters(), center.parameters(), strict=True):
            c.data += 0.3 * (x.detach() - c.detach())
    optimizer = ElasticAveraging(torch.optim.Adam(model.parameters(), lr=0.1), 2, alpha=0.3)
    args = (model, optimizer, data, order)
    run = asyncopt.launch(train_in_turns, args, workers=2, mode=mode, timeout=240)
    assert run.ledger.pushes == 6 + 2  # the end is an exchange, too
    for result, replica in zip(run.results, xs, strict=True):
        assert_equal(result, replica.parameters())
    assert_equal(model.parameters(), center.parameters())  # this process has the center


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_workers_that_meet_are_local_sgd(mode: str) -> None:
    """With the two barriers of its documentation, each round ends with the workers' mean."""
    every, rounds = 3, 4
    model, data = problem()
    expected = copy.deepcopy(model)
    for _ in range(rounds):
        replicas = [copy.deepcopy(expected) for _ in range(2)]
        for rank, replica in enumerate(replicas):
            sgd = torch.optim.SGD(replica.parameters(), lr=0.1)
            for _ in range(every):
                sgd.zero_grad()
                (replica(data[rank::2]) - 1).square().mean().backward()
                sgd.step()
        with torch.no_grad():
            for e, *each in zip(*(m.parameters() for m in (expected, *replicas)), strict=True):
                e.copy_(sum(each) / 2)
    optimizer = LocalSteps(torch.optim.SGD(model.parameters(), lr=0.1), every, sync="atomic")
    args = (model, optimizer, data, rounds)
    run = asyncopt.launch(train_in_rounds, args, workers=2, mode=mode, timeout=240)
    for result in run.results:
        assert_equal(result, expected.parameters())
    assert_equal(model.parameters(), expected.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("outer", [None, NESTEROV], ids=["average", "DiLoCo"])
def test_one_worker_and_a_second_run(outer: dict[str, Any] | None) -> None:
    """One worker with an outer optimizer is DiLoCo with k = 1, without one plain training."""
    model, data = problem()
    expected = copy.deepcopy(model)
    start = [p.detach().clone() for p in expected.parameters()]
    moved = [Parameter(p.clone()) for p in start]
    theirs = torch.optim.SGD(moved, **(outer or {"lr": 1.0}))
    for _ in range(2):
        adam = torch.optim.AdamW(expected.parameters(), lr=0.05)  # a run's workers start anew
        for step in range(10):
            adam.zero_grad()
            (expected(data) - 1).square().mean().backward()
            adam.step()
            if step % 5 == 4:
                for m, p in zip(moved, expected.parameters(), strict=True):
                    m.grad = m.detach() - p.detach()
                theirs.step()
                for m, p in zip(moved, expected.parameters(), strict=True):
                    p.data.copy_(m)
    make = functools.partial(asyncopt.SGD, **outer) if outer else None
    optimizer = LocalSteps(torch.optim.AdamW(model.parameters(), lr=0.05), 5, make)
    for runs in (1, 2):
        run = asyncopt.launch(train, (model, optimizer, data, 10), workers=1, timeout=240)
        assert run.ledger.pushes == 2
        assert optimizer.store is not None
        assert optimizer.store.version == 2 * runs
    assert_equal(model.parameters(), expected.parameters(), rtol=1e-9)


def test_exchanges_lose_nothing() -> None:
    """The center receives every exchange, however many run at once (sync="atomic")."""
    model = nn.Linear(40, 30, dtype=torch.float64)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = ElasticAveraging(
        torch.optim.SGD(model.parameters(), lr=1.0), every=1, alpha=0.1, sync="atomic"
    )
    run = asyncopt.launch(wander, (model, optimizer, 200), workers=WORKERS, timeout=240)
    assert run.ledger.pushes == 200 * WORKERS
    together = sum(rank + 1 for rank in range(WORKERS))
    for i, (center, first) in enumerate(zip(model.parameters(), before, strict=True)):
        total = center.detach() + sum(result[i] for result in run.results)
        torch.testing.assert_close(total, first + together, rtol=1e-11, atol=0)
        assert (center.detach() - first).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize("make", [ElasticAveraging, LocalSteps])
def test_replicas_are_private(make: Any, mode: str) -> None:
    """Parameters and the local optimizer's state, also state that it had before the run."""
    model, _ = problem()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    for _ in range(5):
        adam.step()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = make(adam, every=100)
    run = asyncopt.launch(look, (model, optimizer), workers=2, mode=mode, timeout=240)
    for rank, (start, _, kept, count) in enumerate(run.results):
        assert_equal(start, before, rtol=0)
        assert kept  # pull does not end a round
        assert count == 5 + rank + 1
    assert {int(entries["step"]) for entries in adam.state.values()} == {5}
    if make is LocalSteps:  # the run's end is an exchange
        ends = zip(*(mine for _, mine, _, _ in run.results), strict=True)
        assert_equal(model.parameters(), [sum(each) / 2 for each in ends])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("process", {}),
        ("thread", {"devices": ["cpu"] * 2}),
        ("thread", {"max_staleness": 0}),
    ],
    ids=["processes", "devices", "turns"],
)
@pytest.mark.parametrize("make", [ElasticAveraging, LocalSteps])
def test_a_run_shorter_than_a_period(make: Any, mode: str, options: dict[str, Any]) -> None:
    """Its end is an exchange: all steps of both workers come into the model."""
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(model.weight)
    optimizer = make(torch.optim.SGD(model.parameters(), lr=1.0), every=16, sync="mutex")
    args = (model, optimizer, 8)
    run = asyncopt.launch(descend, args, workers=2, mode=mode, timeout=240, **options)
    assert run.results == [[-8.0] * 3] * 2  # what fn returned stays as it was
    # The second exchange of the elastic method begins at the center that the first one has left or,
    # without turns, at the same one, if both are under way at once.
    share = 0.9 / 2
    ends = [-8.0] if make is LocalSteps else [-8.0 * (1 - (1 - share) ** 2)]
    if make is ElasticAveraging and "max_staleness" not in options:
        ends.append(-8.0 * 2 * share)
    for weight in model.weight.detach().flatten().tolist():
        assert any(weight == pytest.approx(end) for end in ends), weight
    assert run.ledger.pushes == (2 if make is LocalSteps else 4)
