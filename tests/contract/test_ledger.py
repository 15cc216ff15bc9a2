"""The ledger: counts per worker, and the arithmetic on snapshots."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt import _core
from asyncopt.optim import thread_clone

from .cases import REPLICAS, SYNCS, params_of


def push(optimizer: Any, times: int, value: float = 1.0) -> None:
    for p in params_of(optimizer):
        p.grad = torch.full_like(p, value)
    for _ in range(times):
        optimizer.step()


def pair(sync: str, **extra: Any) -> tuple[Any, Any]:
    """A shared optimizer, and another worker of its store."""
    optimizer = asyncopt.SGD([Parameter(torch.zeros(5))], lr=1.0, sync=sync, **extra)
    optimizer.share_memory(workers=1)
    (other,) = thread_clone((optimizer,))
    return optimizer, other


@pytest.mark.parametrize("sync", SYNCS)
def test_counts_go_to_the_worker_that_pushed(sync: str) -> None:
    first, second = pair(sync)
    push(first, 3)
    push(second, 2)
    for optimizer in (first, second):
        ledger = optimizer.ledger()
        assert ledger.version == ledger.pushes == 5
        assert [(w.slot, w.pushes) for w in ledger.workers] == [(0, 3), (1, 2)]
        assert {w.process for w in ledger.workers} == {os.getpid()}


@pytest.mark.parametrize("sync", SYNCS)
def test_staleness_counts_the_pushes_of_others_since_the_last_pull(sync: str) -> None:
    """In place, a worker's own push is its last look; a replica's step ends with a pull."""
    first, second = pair(sync)
    push(second, 1)
    push(first, 3)
    push(second, 1)
    push(second, 1)
    (w,) = (w for w in first.ledger().workers if w.slot == 1)
    assert {i for i, n in enumerate(w.staleness.counts) if n} == {0, 3}
    assert (w.staleness.count, w.staleness.total) == (3, 3)


@pytest.mark.parametrize("sync", SYNCS)
def test_a_worker_that_joins_late_is_not_stale(sync: str) -> None:
    """Its staleness counts from its start, not from the store's beginning."""
    first, second = pair(sync)
    push(second, 4)
    del second  # its slot is free again
    push(first, 10)
    (late,) = thread_clone((first,))
    before = first.ledger()
    push(late, 1)
    assert first.ledger().since(before).staleness.total == 0


@pytest.mark.parametrize("sync", REPLICAS)
def test_pull_freshens_a_replica(sync: str) -> None:
    first, second = pair(sync)
    push(first, 3)
    assert params_of(second)[0][0].item() == 0
    second.pull()
    assert params_of(second)[0][0].item() == -3
    push(second, 1)
    assert first.ledger().staleness.total == 0


def test_since() -> None:
    """The difference of two snapshots of one store holds only what happened between them."""
    first, second = pair("mutex")
    push(first, 3)
    push(second, 2)
    earlier = first.ledger()
    push(second, 4)
    with pytest.warns(RuntimeWarning, match="skipped"):
        push(second, 1, math.nan)
    change = first.ledger().since(earlier)
    assert (change.version, change.pushes, change.skipped_nonfinite) == (4, 4, 1)
    assert [w.slot for w in change.workers] == [1]
    assert change.staleness.count == 4
    assert first.ledger().since(first.ledger()).workers == ()
    assert earlier.pushes == 5  # a snapshot does not move


def test_merge() -> None:
    """Several stores together: sums, with each store's workers listed."""
    ledgers = []
    for count, sync in ((3, "mutex"), (70, "seqlock")):
        first, second = pair(sync)
        push(first, count)
        push(second, 1)
        ledgers.append(first.ledger())
    merged = asyncopt.Ledger.merge(ledgers)
    assert merged.version == merged.pushes == 75
    assert [w.pushes for w in merged.workers] == [3, 1, 70, 1]
    assert merged.staleness.total == sum(e.staleness.total for e in ledgers)
    assert merged.staleness.count == 75
    assert asyncopt.Ledger.merge([]).pushes == 0


def test_without_a_store() -> None:
    """Alone, only skipped pushes are counted."""
    optimizer = asyncopt.SGD([Parameter(torch.zeros(5))], nonfinite="skip")
    push(optimizer, 3)
    assert optimizer.ledger() == asyncopt.Ledger(0, ())
    with pytest.warns(RuntimeWarning, match="skipped"):
        push(optimizer, 2, math.inf)
    ledger = optimizer.ledger()
    assert (ledger.version, ledger.pushes, ledger.skipped_nonfinite) == (0, 0, 2)
    assert math.isnan(ledger.staleness.mean)
    assert math.isnan(ledger.staleness.percentile(50))


def test_histogram_percentiles() -> None:
    """Exact up to 63, within a quarter above."""
    edges = _core.staleness_floors()
    assert edges[:65] == list(range(65))
    assert all(b - a <= a / 4 for a, b in itertools.pairwise(edges[64:]))
    first, second = pair("hogwild")
    push(second, 1)  # staleness 0
    push(first, 10)
    push(second, 1)  # staleness 10
    push(first, 1000)
    push(second, 1)  # staleness 1000, in the bucket from 896
    (w,) = (w for w in first.ledger().workers if w.slot == 1)
    assert [w.staleness.percentile(q) for q in (0, 33, 34, 66, 67, 100)] == [0, 0, 10, 10, 896, 896]
    assert w.staleness.mean == pytest.approx(1010 / 3)
    for q in (-1, 101, math.nan):
        with pytest.raises(ValueError, match="q: expected a percentage"):
            w.staleness.percentile(q)


def test_what_is_printed_is_short() -> None:
    first, second = pair("hogwild")
    push(second, 1)
    push(first, 3)
    push(second, 1)
    ledger = first.ledger()
    assert repr(ledger.staleness) == "Histogram(count=5, mean=0.8, p99=3)"
    assert str(ledger) == (
        "5 pushes, staleness 0.8 (p99 3); 0 lock waits of 0 s together, 0 retries, "
        "lost updates: not counted, 0 pushes skipped, 0 locks repaired"
    )
    assert str(asyncopt.Ledger(0, ())).startswith("0 pushes, staleness nan (p99 nan); ")


def test_what_was_not_counted_is_not_zero() -> None:
    """Only hogwild loses updates, and only with audit=True are they counted."""
    for sync in asyncopt.syncs():
        counts = 0 if sync != "hogwild" else None
        first, second = pair(sync)
        push(first, 2)
        before = first.ledger()
        push(second, 1)
        ledger = first.ledger()
        for each in (before, ledger, ledger.since(before), asyncopt.Ledger.merge([ledger, before])):
            assert (each.lost_updates, each.lost_state_updates) == (counts, counts), sync
        assert ledger.since(before).pushes == 1
        text = "lost updates: 0," if counts == 0 else "lost updates: not counted,"
        assert text in str(ledger)
