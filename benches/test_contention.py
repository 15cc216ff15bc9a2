"""Contention: updates per second of every sync x workers x overlap, in real processes.

One launch per number of workers; inside it all workers push under one sync after the other, a
barrier before each, for a fixed time. Every push adds exactly 1 to each element it covers, so the
sums count the pushes that arrived: syncs that lose nothing must show all of them, and under
audited hogwild the pushed minus the sum is the number of lost updates in the ledger.

"private" is the same loop on private memory: the floor. Beyond as many workers as
there are cores the figures show what preemption inside a critical section does, not scaling.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import asyncopt
from benches.conftest import Say
from benches.interleave import ROUNDS, Comparison, Pair, record, replay, rotations
from benches.others import Others

pytestmark = pytest.mark.benchmark(timer=replay)

WORKERS = (1, 2, 4, 8)
LOSSY, AUDITED, PRIVATE = "hogwild", "hogwild audited", "private"
CONTENDERS = (*asyncopt.syncs(), AUDITED, PRIVATE)
BATCH = 64
"""Rows of one sparse push."""


@dataclass(frozen=True)
class Overlap:
    """Overlap of the workers' pushes: all elements, some rows or none."""

    name: str
    shape: tuple[int, ...]
    rows: str = ""
    """"skewed": rows drawn from a power law, the same for all workers; "own": a worker's own."""

    @property
    def pushed(self) -> int:
        """Elements in one push."""
        return BATCH * self.shape[1] if self.rows else self.shape[0]


OVERLAPS = (
    Overlap("dense, one cache line", (16,)),
    Overlap("dense, 1M elements", (1_000_000,)),
    Overlap("rows, overlapping", (4096, 64), rows="skewed"),
    Overlap("rows, disjoint", (4096, 64), rows="own"),
)


@dataclass
class Slice:
    """One worker's pushes in one round: `count` of them between two readings of the clock."""

    begin: float
    end: float
    count: int


@dataclass
class Hammered:
    """Pushes of one worker to one optimizer."""

    slices: list[Slice] = field(default_factory=list)
    pushes: int = 0
    """All pushes, warm-up included."""
    row_pushes: np.ndarray | None = None
    """Pushes of each row, int64 of shape (rows,); None where pushes are dense."""


def optimizer(overlap: Overlap, contender: str) -> asyncopt.optim.Optimizer:
    """SGD with lr 1 on zeros: a gradient of -1 adds exactly 1 in float32 up to 2**24 pushes."""
    param = torch.zeros(overlap.shape, requires_grad=True)
    if contender == PRIVATE:
        return asyncopt.SGD([param], lr=1.0, nonfinite="skip")  # the default once shared
    if contender == AUDITED:
        return asyncopt.SGD([param], lr=1.0, sync=LOSSY, audit=True)
    return asyncopt.SGD([param], lr=1.0, sync=contender)


def batches(overlap: Overlap, rank: int, workers: int) -> list[Tensor]:
    """32 batches of `BATCH` distinct rows each (int64) that worker `rank` cycles through."""
    rows = overlap.shape[0]
    random = np.random.default_rng(rank)
    if overlap.rows == "own":
        choice, weights = np.arange(rank, rows, workers), None
    else:
        choice = np.arange(rows)
        weights = 1.0 / (1.0 + choice)
        weights /= weights.sum()
    size = min(BATCH, len(choice))
    return [
        torch.from_numpy(random.choice(choice, size, replace=False, p=weights)) for _ in range(32)
    ]


def pusher(
    opt: asyncopt.optim.Optimizer, overlap: Overlap, rank: int, workers: int, done: Hammered
) -> Callable[[], object]:
    """One push of worker `rank`; pushes are counted in `done`."""
    (param,) = opt.param_groups[0]["params"]
    if not overlap.rows:
        param.grad = torch.full_like(param, -1.0)

        def dense() -> None:
            opt.step()
            done.pushes += 1

        return dense

    cycle = batches(overlap, rank, workers)
    values = torch.full((len(cycle[0]), *overlap.shape[1:]), -1.0)

    def sparse() -> None:
        opt.step_rows(param, cycle[done.pushes % len(cycle)], values)
        done.pushes += 1

    return sparse


def hammer(
    worker: asyncopt.Worker,
    shared: dict[tuple[str, str], asyncopt.optim.Optimizer],
    rounds: int,
    seconds: float,
) -> dict[tuple[str, str], Hammered]:
    """Runs in every worker: push to each optimizer for `seconds`, `rounds` times over."""
    torch.set_num_threads(1)
    overlaps = {overlap.name: overlap for overlap in OVERLAPS}
    results: dict[tuple[str, str], Hammered] = {}
    pushes: dict[tuple[str, str], Callable[[], object]] = {}
    for name, overlap in overlaps.items():
        for contender in CONTENDERS:
            key = (name, contender)
            opt = optimizer(overlap, PRIVATE) if contender == PRIVATE else shared[key]
            results[key] = Hammered()
            pushes[key] = pusher(opt, overlap, worker.rank, worker.world_size, results[key])
            pushes[key]()
    for order in rotations(list(CONTENDERS), rounds):
        for name in overlaps:
            for contender in order:
                done, push = results[name, contender], pushes[name, contender]
                worker.barrier()
                before = done.pushes
                begin = time.perf_counter()
                while time.perf_counter() - begin < seconds:
                    push()
                taken = Slice(begin, time.perf_counter(), done.pushes - before)
                done.slices.append(taken)
    for (name, _), done in results.items():
        if overlaps[name].rows:
            done.row_pushes = rows_pushed(overlaps[name], worker.rank, worker.world_size, done)
    return results


def rows_pushed(overlap: Overlap, rank: int, workers: int, done: Hammered) -> np.ndarray:
    """How often worker `rank` pushed each row, int64 of shape (rows,)."""
    counts = np.zeros(overlap.shape[0], dtype=np.int64)
    cycle = batches(overlap, rank, workers)
    for number, rows in enumerate(cycle):
        counts[rows.numpy()] += len(range(number, done.pushes, len(cycle)))
    return counts


@dataclass
class Outcome:
    """One launch: the optimizers as the workers left them, and what each worker did."""

    shared: dict[tuple[str, str], asyncopt.optim.Optimizer]
    results: list[dict[tuple[str, str], Hammered]]
    others: float

    def comparison(self, overlap: Overlap) -> Comparison:
        """Seconds per push (all workers together) of every contender."""
        samples: dict[str, tuple[float, ...]] = {}
        for contender in CONTENDERS:
            per_worker = [result[overlap.name, contender].slices for result in self.results]
            samples[contender] = tuple(
                (max(s.end for s in slices) - min(s.begin for s in slices))
                / sum(s.count for s in slices)
                for slices in zip(*per_worker, strict=True)
            )
        return Comparison(samples, self.others)


@pytest.fixture(scope="session")
def launched(quick: bool) -> Callable[[int, Say], Outcome]:
    """The launch with that many workers, done once per session."""
    outcomes: dict[int, Outcome] = {}

    def launch(workers: int, say: Say) -> Outcome:
        if workers not in outcomes:
            say(f"launching {workers} workers ...")
            shared = {
                (overlap.name, contender): optimizer(overlap, contender)
                for overlap in OVERLAPS
                for contender in CONTENDERS
                if contender != PRIVATE
            }
            rounds, seconds = (3, 0.01) if quick else (ROUNDS, 0.03)
            others = Others()
            run = asyncopt.launch(
                hammer,
                args=(shared, rounds, seconds),
                workers=workers,
                threads_per_worker=1,
                pin=True,
                timeout=300,
            )
            outcomes[workers] = Outcome(shared, run.results, others.share())
        return outcomes[workers]

    return launch


@pytest.mark.parametrize("overlap", OVERLAPS, ids=lambda overlap: overlap.name)
@pytest.mark.parametrize("workers", WORKERS)
def test_contention(
    benchmark: Any,
    workers: int,
    overlap: Overlap,
    launched: Callable[[int, Say], Outcome],
    quick: bool,
    say: Say,
) -> None:
    if quick and workers > 2:
        pytest.skip("--quick: up to 2 workers")
    outcome = launched(workers, say)
    comparison = outcome.comparison(overlap)
    rows: dict[str, dict[str, Any]] = {}
    for contender in CONTENDERS:
        rows[contender] = {"updates_per_second": 1 / comparison.median(contender)}
        if contender != PRIVATE:
            rows[contender] |= ledger_row(outcome.shared[overlap.name, contender], overlap.pushed)
    lines = record(
        benchmark,
        comparison,
        [Pair(LOSSY, PRIVATE), Pair(LOSSY, AUDITED), Pair(LOSSY, "mutex")],
        suite="contention",
        case={"workers": workers, "overlap": overlap.name},
        rows=rows,
    )
    rates = ", ".join(f"{name} {row['updates_per_second']:,.0f}" for name, row in rows.items())
    say(f"updates/s: {rates}")
    for line in lines:
        say(line)
    for contender in CONTENDERS:
        if contender != PRIVATE:
            done = [result[overlap.name, contender] for result in outcome.results]
            check(outcome.shared[overlap.name, contender], contender, done)


def ledger_row(opt: asyncopt.optim.Optimizer, elements: int) -> dict[str, float]:
    """An optimizer's ledger per push, or per element update (`elements` in a push)."""
    ledger = opt.ledger()
    return {
        "lock_waits_per_push": ledger.lock_waits / ledger.pushes,
        "retries_per_push": ledger.retries / ledger.pushes,
        "lost_share": (ledger.lost_updates or 0) / (ledger.pushes * elements),
        "pushes": ledger.pushes,
        "staleness_p99": ledger.staleness.percentile(99),
    }


def check(opt: asyncopt.optim.Optimizer, contender: str, done: list[Hammered]) -> None:
    """Compare the store's contents with the workers' pushes."""
    opt.pull()
    (param,) = opt.param_groups[0]["params"]
    pushes = sum(one.pushes for one in done)
    ledger = opt.ledger()
    assert ledger.pushes == pushes, contender
    pushed = np.full(param.shape, pushes, dtype=np.int64)
    per_row = [one.row_pushes for one in done if one.row_pushes is not None]
    if per_row:
        pushed[:] = np.sum(per_row, axis=0)[:, None]
    assert pushed.max() < 2**24, "too many pushes to be counted in float32"
    there = param.detach().numpy().astype(np.int64)
    if contender not in (LOSSY, AUDITED):
        np.testing.assert_array_equal(there, pushed, err_msg=contender)
        return
    assert (there <= pushed).all(), contender
    if contender == AUDITED:
        assert pushed.sum() - there.sum() == ledger.lost_updates, contender
