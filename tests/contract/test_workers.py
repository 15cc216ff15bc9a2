"""Exactness with real processes: whatever the timing, counts come out as each sync promises.

All elements of all parameters count up by 1 per push: SGD with lr=1 in the parameter, Adagrad in
its sum of squares, Adam in its step. Such sums are exact in every dtype and in every order.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt import _core

from .cases import DTYPES, REPLICAS, SYNCS, dtype_of, params_of
from .jobs import WORKERS, Sight, count_everything, rows_of

STEPS = 80  # 3 x 80 < 256, up to which bfloat16 holds every integer
ROWS = 40

LOSSLESS = tuple(c["name"] for c in _core.syncs() if not c["may_lose"])


def zeros() -> list[Parameter]:
    """Parameters of every dtype: less than a cache line, a few stripes, and many."""
    dtypes = dict.fromkeys(dtype_of(p) for p, _ in DTYPES)
    return [Parameter(torch.zeros(s, dtype=d)) for d in dtypes for s in ((7,), (31, 33), (4096,))]


@dataclass
class Outcome:
    """The run and the optimizers that it trained."""

    dense: dict[str, Any]
    rows: dict[str, Any]
    run: asyncopt.Run

    def sights(self, name: str) -> list[Sight]:
        """What each worker saw of an optimizer."""
        return [result[name] for result in self.run.results]


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """One run of three processes over all syncs."""
    dense: dict[str, Any] = {}
    for sync in SYNCS:
        dense[f"{sync} SGD"] = asyncopt.SGD(zeros(), lr=1.0, sync=sync)
        dense[f"{sync} Adagrad"] = asyncopt.Adagrad(zeros(), lr=1.0, sync=sync)
        dense[f"{sync} Adam"] = asyncopt.Adam(zeros(), lr=1.0, sync=sync)
    dense["audited SGD"] = asyncopt.SGD(zeros(), lr=1.0, audit=True)
    dense["audited Adagrad"] = asyncopt.Adagrad(zeros(), lr=1.0, audit=True)
    rows = {
        sync: asyncopt.SGD([Parameter(torch.zeros(ROWS, 6))], lr=1.0, sync=sync) for sync in SYNCS
    }
    run = asyncopt.launch(count_everything, (dense, rows, STEPS), WORKERS, timeout=120)
    return Outcome(dense, rows, run)


@pytest.mark.parametrize("sync", LOSSLESS)
def test_nothing_is_lost(outcome: Outcome, sync: str) -> None:
    """N workers x M increments sum exactly, in parameters and in state, in every dtype."""
    for p in params_of(outcome.dense[f"{sync} SGD"]):
        assert bool((p == WORKERS * STEPS).all()), (p.dtype, p.shape)
    adagrad = outcome.dense[f"{sync} Adagrad"]
    adagrad.pull()
    for p in params_of(adagrad):
        assert bool((adagrad.state[p]["sum"] == WORKERS * STEPS).all()), (p.dtype, p.shape)


@pytest.mark.parametrize("sync", LOSSLESS)
def test_no_row_is_lost(outcome: Outcome, sync: str) -> None:
    """Overlapping sparse pushes sum exactly."""
    (table,) = params_of(outcome.rows[sync])
    named = torch.cat([rows_of(r, s, ROWS) for r in range(WORKERS) for s in range(STEPS)])
    expected = torch.bincount(named, minlength=ROWS)
    assert torch.equal(table.detach(), expected[:, None].expand(ROWS, 6).float())


@pytest.mark.parametrize("sync", SYNCS)
def test_nothing_is_invented(outcome: Outcome, sync: str) -> None:
    """No element is ever more than what was pushed, nor torn into something else."""
    for name in ("SGD", "Adagrad"):
        optimizer = outcome.dense[f"{sync} {name}"]
        optimizer.pull()
        for p in params_of(optimizer):
            counted = p.detach() if name == "SGD" else optimizer.state[p]["sum"]
            assert bool((counted == counted.round()).all())
            assert bool(((counted >= 1) & (counted <= WORKERS * STEPS)).all())


def test_the_audit_explains_every_lost_update(outcome: Outcome) -> None:
    """Pushed minus found is what the ledger counts as lost, for parameters and for state."""
    for name in ("SGD", "Adagrad"):
        optimizer = outcome.dense[f"audited {name}"]
        pushed = found = 0.0
        for p in params_of(optimizer):
            counted = p.detach() if name == "SGD" else optimizer.state[p]["sum"]
            pushed += WORKERS * STEPS * counted.numel()
            found += float(counted.double().sum())
        ledger = optimizer.ledger()
        lost = ledger.lost_updates if name == "SGD" else ledger.lost_state_updates
        assert lost == pushed - found
        if name == "SGD":
            assert ledger.lost_state_updates == 0


def test_only_the_audit_counts_losses(outcome: Outcome) -> None:
    for name, optimizer in outcome.dense.items():
        if not name.startswith("audited"):
            ledger = optimizer.ledger()
            assert ledger.lost_updates == ledger.lost_state_updates == 0, name


@pytest.mark.parametrize("sync", SYNCS)
def test_steps_are_counted_exactly(outcome: Outcome, sync: str) -> None:
    """Bias corrections keep their meaning: no step is lost under any sync."""
    for name in ("Adagrad", "Adam"):
        state = outcome.dense[f"{sync} {name}"].state_dict()["state"]
        assert {float(entries["step"]) for entries in state.values()} == {WORKERS * STEPS}


@pytest.mark.parametrize("sync", SYNCS)
def test_steps_of_adam_stay_bounded(outcome: Outcome, sync: str) -> None:
    """Equal gradients move Adam by lr per step, whatever others write to its moments."""
    for p in params_of(outcome.dense[f"{sync} Adam"]):
        assert bool(p.isfinite().all())
        assert float(p.detach().amax()) <= 1.5 * WORKERS * STEPS


@pytest.mark.parametrize("sync", REPLICAS)
def test_no_torn_version_is_seen(outcome: Outcome, sync: str) -> None:
    """Each pull is one whole version, parameters and state together, that never goes back."""
    for name in ("SGD", "Adagrad"):
        for sight in outcome.sights(f"{sync} {name}"):
            assert sight.torn == 0
            assert sight.backwards == 0


@pytest.mark.parametrize("sync", SYNCS)
def test_versions(outcome: Outcome, sync: str) -> None:
    """Every push is a version; each worker sees them grow, its own among them."""
    for name in ("SGD", "Adagrad", "Adam"):
        optimizer = outcome.dense[f"{sync} {name}"]
        assert optimizer.store.version == WORKERS * STEPS
        for sight in outcome.sights(f"{sync} {name}"):
            assert all(a < b for a, b in itertools.pairwise([0, *sight.versions]))


@pytest.mark.parametrize("sync", SYNCS)
def test_ledger_of_a_store(outcome: Outcome, sync: str) -> None:
    """Each worker's pushes in a slot of its own, and a staleness for each of them."""
    for name in ("SGD", "Adagrad", "Adam"):
        ledger = outcome.dense[f"{sync} {name}"].ledger()
        assert ledger.version == ledger.pushes == WORKERS * STEPS
        assert [w.pushes for w in ledger.workers] == [STEPS] * WORKERS
        for w in ledger.workers:
            assert w.staleness.count == w.pushes
            # At most what the others pushed: nothing is stale by a worker's own pushes.
            assert w.staleness.total <= STEPS * (WORKERS - 1) * STEPS
        assert ledger.staleness.count == ledger.pushes
        assert ledger.staleness.percentile(100) <= (WORKERS - 1) * STEPS
        assert ledger.repairs == ledger.skipped_nonfinite == 0
        blocks = next(c["may_block"] for c in _core.syncs() if c["name"] == sync)
        assert blocks or ledger.lock_waits == 0
        assert (ledger.lock_wait_seconds > 0) == (ledger.lock_waits > 0)


def test_ledger_of_the_run(outcome: Outcome) -> None:
    """All stores together."""
    everything = [*outcome.dense.values(), *outcome.rows.values()]
    ledger = outcome.run.ledger
    assert ledger.pushes == ledger.version == len(everything) * WORKERS * STEPS
    merged = asyncopt.Ledger.merge([optimizer.ledger() for optimizer in everything])
    for count in ("pushes", "retries", "lock_waits", "lost_updates", "lost_state_updates"):
        assert getattr(ledger, count) == getattr(merged, count), count
    assert ledger.staleness.counts.tolist() == merged.staleness.counts.tolist()
    assert outcome.run.updates_per_second == ledger.pushes / outcome.run.elapsed
