"""Exact counts with real processes: they are as each sync guarantees, whatever the timing.

All elements of all parameters count up by 1 per push: SGD with lr=1 in the parameter, Adagrad in
its sum of squares, Adam in its step. Such sums are exact in every dtype and in every order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt import _core

from .cases import REPLICAS, SYNCS, params_of
from .jobs import WORKERS, Sight, count_everything, rows_of

SECONDS = 0.06  # for each optimizer: hundreds to thousands of pushes that overlap

LOSSLESS = tuple(c["name"] for c in _core.syncs() if not c["may_lose"])

Shapes = Mapping[torch.dtype, tuple[tuple[int, ...], ...]]

#: Less than a cache line, a few stripes, and tensors that take a while, so that pushes overlap.
SHAPES: Shapes = {torch.float32: ((7,), (31, 33), (1 << 14,)), torch.float64: ((1 << 12,),)}
BFLOAT16: Shapes = {torch.bfloat16: ((7,), (1 << 18,))}
ROWS: Shapes = {torch.float32: ((512, 16),)}


def zeros(shapes: Shapes) -> list[Parameter]:
    return [Parameter(torch.zeros(s, dtype=d)) for d, sizes in shapes.items() for s in sizes]


@dataclass
class Outcome:
    """The run and the optimizers that it trained."""

    dense: dict[str, Any]
    rows: dict[str, Any]
    run: asyncopt.Run

    def sights(self, name: str) -> list[Sight]:
        """The record of each worker."""
        return [result[name] for result in self.run.results]

    def pushed(self, name: str) -> int:
        """How often all workers together pushed."""
        return sum(sight.pushes for sight in self.sights(name))

    def expected(self, name: str) -> list[torch.Tensor]:
        """The count in every element if no update is lost; float64."""
        if name in self.dense:
            shapes = [p.shape for p in params_of(self.dense[name])]
            return [torch.full(s, self.pushed(name), dtype=torch.float64) for s in shapes]
        (table,) = params_of(self.rows[name])
        named = [
            rows_of(rank, push, len(table))
            for rank, sight in enumerate(self.sights(name))
            for push in range(sight.pushes)
        ]
        counts = torch.bincount(torch.cat(named), minlength=len(table))
        return [counts[:, None].expand(table.shape).double()]

    def counted(self, name: str) -> list[torch.Tensor]:
        """The count found in every element: SGD's parameters, Adagrad's sums; float64."""
        optimizer = (self.dense | self.rows)[name]
        optimizer.pull()
        found = params_of(optimizer)
        if type(optimizer).__name__ != "SGD":
            found = [optimizer.state[p]["sum"] for p in found]
        return [each.detach().double() for each in found]


#: Kinds of optimizers of which every sync has one, by what tells them apart in a name.
KINDS = ("SGD", "SGD bfloat16", "SGD rows", "Adagrad", "Adagrad bfloat16", "Adagrad rows")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_sync = pytest.mark.parametrize("sync", SYNCS)


def shapes_of(kind: str) -> Shapes:
    if kind.endswith("rows"):
        return ROWS
    return BFLOAT16 if kind.endswith("bfloat16") else SHAPES


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """One run of three processes over all syncs."""
    every: dict[str, Any] = {}
    for kind in (*KINDS, "Adam"):
        make = getattr(asyncopt, kind.split()[0])
        for sync in SYNCS:
            every[f"{sync} {kind}"] = make(zeros(shapes_of(kind)), lr=1.0, sync=sync)
        if kind != "Adam":
            every[f"audited {kind}"] = make(zeros(shapes_of(kind)), lr=1.0, audit=True)
    rows = {name: optimizer for name, optimizer in every.items() if name.endswith("rows")}
    dense = {name: optimizer for name, optimizer in every.items() if name not in rows}
    # Pinned: left alone, workers that wake together may share one CPU for as long as this takes.
    args = (dense, rows, SECONDS)
    run = asyncopt.launch(count_everything, args, WORKERS, pin=True, timeout=120)
    return Outcome(dense, rows, run)


@pytest.mark.slow
def test_workers_met(outcome: Outcome) -> None:
    """Workers overlapped; otherwise the tests below would prove nothing."""
    ledger = outcome.run.ledger
    assert ledger.staleness.counts[1:].sum() > 0.05 * ledger.staleness.count
    assert ledger.retries > 0
    every = (outcome.dense | outcome.rows).items()
    audited = asyncopt.Ledger.merge(o.ledger() for name, o in every if name.startswith("audited"))
    assert (audited.lost_updates or 0) + (audited.lost_state_updates or 0) > 0


@pytest.mark.parametrize("sync", LOSSLESS)
@every_kind
def test_nothing_is_lost(outcome: Outcome, kind: str, sync: str) -> None:
    """Every push of every worker is in every element, of parameters and of state."""
    name = f"{sync} {kind}"
    for counted, expected in zip(outcome.counted(name), outcome.expected(name), strict=True):
        assert torch.equal(counted, expected)


@every_sync
@every_kind
def test_nothing_is_invented(outcome: Outcome, kind: str, sync: str) -> None:
    """No element exceeds the pushed sum or is torn."""
    name = f"{sync} {kind}"
    for counted, expected in zip(outcome.counted(name), outcome.expected(name), strict=True):
        assert torch.equal(counted, counted.round())
        assert bool(((counted >= 1) & (counted <= expected)).all())


@every_kind
def test_the_audit_explains_every_lost_update(outcome: Outcome, kind: str) -> None:
    """Pushed minus found is what the ledger counts as lost, for parameters and for state."""
    name = f"audited {kind}"
    pushed, found = (
        sum(int(each.sum()) for each in side)
        for side in (outcome.expected(name), outcome.counted(name))
    )
    ledger = (outcome.dense | outcome.rows)[name].ledger()
    if kind.startswith("SGD"):
        assert (ledger.lost_updates, ledger.lost_state_updates) == (pushed - found, 0)
    else:
        assert ledger.lost_state_updates == pushed - found


def test_only_the_audit_counts_losses(outcome: Outcome) -> None:
    for name, optimizer in (outcome.dense | outcome.rows).items():
        if not name.startswith("audited"):
            ledger = optimizer.ledger()
            expected = None if optimizer.sync == "hogwild" else 0
            assert ledger.lost_updates == ledger.lost_state_updates == expected, name


@every_sync
@pytest.mark.parametrize("rule", ["Adagrad", "Adagrad rows", "Adam"])
def test_steps_are_counted_exactly(outcome: Outcome, rule: str, sync: str) -> None:
    """Bias corrections keep their meaning: no step is lost under any sync."""
    name = f"{sync} {rule}"
    state = (outcome.dense | outcome.rows)[name].state_dict()["state"]
    assert [float(e["step"]) for e in state.values()] == [outcome.pushed(name)] * len(state)


@every_sync
def test_steps_of_adam_stay_bounded(outcome: Outcome, sync: str) -> None:
    """Equal gradients move Adam by lr per step, whatever others write to its moments."""
    for p in params_of(outcome.dense[f"{sync} Adam"]):
        assert bool(p.isfinite().all())
        assert float(p.detach().amin()) > 0
        assert float(p.detach().amax()) <= 1.5 * outcome.pushed(f"{sync} Adam")


@pytest.mark.parametrize("sync", REPLICAS)
@pytest.mark.parametrize("rule", ["SGD", "SGD bfloat16", "Adagrad"])
def test_no_torn_version_is_seen(outcome: Outcome, rule: str, sync: str) -> None:
    """Each pull is one whole version, parameters and state together, that never goes back."""
    for sight in outcome.sights(f"{sync} {rule}"):
        assert (sight.torn, sight.backwards) == (0, 0)


@every_sync
@pytest.mark.parametrize("rule", ["SGD", "Adagrad", "Adam"])
def test_versions(outcome: Outcome, rule: str, sync: str) -> None:
    """Every push is a version; each worker sees them grow, its own among them."""
    name = f"{sync} {rule}"
    assert outcome.dense[name].store.version == outcome.pushed(name)
    assert [sight.stuck for sight in outcome.sights(name)] == [0] * WORKERS


@every_sync
@pytest.mark.parametrize("rule", ["SGD", "Adagrad", "Adam"])
def test_ledger_of_a_store(outcome: Outcome, rule: str, sync: str) -> None:
    """Each worker's pushes in a slot of its own, and a staleness for each of them."""
    name = f"{sync} {rule}"
    ledger = outcome.dense[name].ledger()
    pushes = sorted(sight.pushes for sight in outcome.sights(name))
    assert sorted(w.pushes for w in ledger.workers) == pushes
    assert ledger.version == ledger.pushes == sum(pushes)
    assert ledger.staleness.count == ledger.pushes
    for w in ledger.workers:
        assert w.staleness.count == w.pushes
        # Between two of its own pushes come pushes of others only, and each once.
        assert w.staleness.total <= ledger.pushes - w.pushes
    assert ledger.repairs == ledger.skipped_nonfinite == 0
    (contract,) = (c for c in _core.syncs() if c["name"] == sync)
    assert contract["may_block"] or ledger.lock_waits == 0
    assert (ledger.lock_wait_seconds > 0) == (ledger.lock_waits > 0)


def test_ledger_of_the_run(outcome: Outcome) -> None:
    """All stores together."""
    everything = outcome.dense | outcome.rows
    ledger = outcome.run.ledger
    assert ledger.pushes == ledger.version == sum(outcome.pushed(name) for name in everything)
    merged = asyncopt.Ledger.merge([optimizer.ledger() for optimizer in everything.values()])
    for count in ("pushes", "retries", "lock_waits", "lost_updates", "lost_state_updates"):
        assert getattr(ledger, count) == getattr(merged, count), count
    assert ledger.staleness.counts.tolist() == merged.staleness.counts.tolist()
    assert outcome.run.updates_per_second == ledger.pushes / outcome.run.elapsed
