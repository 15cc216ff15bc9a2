"""Simulation of cores that compute, push, and compute again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from asyncopt.simulate.costs import Costs
from asyncopt.simulate.memory import Clock, Steps
from asyncopt.simulate.syncs import SYNCS, Sync
from asyncopt.simulate.workload import Workload

MOST_CORES = 4096
WARM_UP = 4  # pushes per core that are not counted: caches and queues fill
MEASURED = 12  # pushes per core that are
FEWEST = 400  # pushes measured, however few the cores


@dataclass(frozen=True)
class Outcome:
    """Result of a simulation.

    Attributes:
        updates_per_second: pushes of all cores together.
        staleness: of each push that was counted, in the order of their ends: pushes by others
            between this core's pull and its push.
        waits: locks that were not free at once, per push.
        retries: versions or snapshots that were discarded, per push.
    """

    updates_per_second: float
    staleness: tuple[int, ...]
    waits: float
    retries: float

    @property
    def mean_staleness(self) -> float:
        """Over all pushes."""
        return float(np.mean(self.staleness))

    def percentile(self, q: float) -> int:
        """The staleness that `q` percent of the pushes do not exceed."""
        return int(np.percentile(self.staleness, q, method="inverted_cdf"))


def simulate(costs: Costs, sync: str, cores: int, workload: Workload, seed: int = 0) -> Outcome:
    """Predict throughput and staleness of workers that push under a sync, each on its own core.

    Assumptions: no worker is preempted, all pairs of cores have the latency of the pair on which
    `costs` were measured, and transfers between different pairs do not interfere. For many cores
    the result is a bound rather than a forecast.

    Args:
        costs: seconds that each step takes.
        sync: one of ``SYNCS``.
        cores: workers, at most `MOST_CORES`.
        workload: what they push.
        seed: of what is drawn; the same seed gives the same outcome.

    Returns:
        The steady state of `cores` workers, after caches are warm and queues have filled.

    Raises:
        ValueError: there is no such sync, or `cores` is out of range.
    """
    if sync not in SYNCS:
        raise ValueError(f"sync: expected one of {', '.join(SYNCS)}; got {sync!r}")
    if not 1 <= cores <= MOST_CORES:
        raise ValueError(f"cores: expected 1 to {MOST_CORES}, got {cores}")
    clock = Clock()
    store = SYNCS[sync](costs, workload, clock, cores)
    pushes = _Pushes(clock)
    private = costs.call + workload.touched * costs.check + workload.compute
    for core, dice in enumerate(np.random.default_rng(seed).spawn(cores)):
        clock.add(_worker(core, dice, private, workload, store, pushes))
    return pushes.outcome(store, WARM_UP * cores, max(MEASURED * cores, FEWEST))


class _Pushes:
    """Pushes and their times."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.staleness: list[int] = []

    def outcome(self, store: Sync, skipped: int, measured: int) -> Outcome:
        """Run until so many have been skipped and so many measured."""
        self._run(skipped)
        begin, waits, retries = self._clock.now, store.tally.waits, store.tally.retries
        self._run(skipped + measured)
        return Outcome(
            updates_per_second=measured / (self._clock.now - begin),
            staleness=tuple(self.staleness[skipped:]),
            waits=(store.tally.waits - waits) / measured,
            retries=(store.tally.retries - retries) / measured,
        )

    def _run(self, count: int) -> None:
        while len(self.staleness) < count:
            self._clock.step()


def _worker(
    core: int,
    dice: np.random.Generator,
    private: float,
    workload: Workload,
    store: Sync,
    pushes: _Pushes,
) -> Steps:
    """Compute, push, compute again; the first time, a random part of the computing is over."""
    yield private * dice.random()
    while True:
        yield store.pending[core] + workload.private(private, dice)
        store.pending[core] = 0.0
        pulled = store.pulled[core]
        yield from store.push(core, workload.draw(dice))
        pushes.staleness.append(store.found[core] - pulled)
