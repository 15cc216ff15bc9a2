"""Plan, problem and row of a comparison of syncs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asyncopt.studies.options import in_turns, parse_delay
from asyncopt.studies.progress import Meter
from asyncopt.studies.rows import Curve, Row, Spread, Staleness
from asyncopt.studies.study import Plan, Problem
from asyncopt.studies.training.jobs import ALONE, Variant
from asyncopt.studies.training.measure import Conditions


@dataclass(frozen=True)
class Comparison(Plan):
    """Options of one comparison. `epochs` and `lr` None: each problem's own choice.

    `kill_rate` (per second of a worker's working time), `delay` (see `options.DELAYS`) and
    `max_staleness` None: workers are not killed, delayed or kept waiting.
    """

    problems: tuple[str, ...]
    syncs: tuple[str, ...]
    workers: tuple[int, ...]
    repeats: int
    epochs: int | None
    rule: str
    lr: float | None
    seed: int
    mode: str
    audit: bool
    quick: bool
    kill_rate: float | None = None
    delay: str | None = None
    max_staleness: int | None = None

    @property
    def conditions(self) -> Conditions:
        """Conditions of the training problems.

        Raises ValueError: `delay` is none, or its file has gone.
        """
        return Conditions(
            mode=self.mode,
            delay=(
                None
                if self.delay is None
                else parse_delay(self.delay, max(self.workers), self.seed)
            ),
            max_staleness=self.max_staleness,
            kill_rate=self.kill_rate or 0.0,
            seed=self.seed,
        )

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The contenders in the order of the table; `unshared` (the machine's ceiling) is last."""
        shared = [Variant(sync, sync, False) for sync in self.syncs]
        if self.audit and "hogwild" in self.syncs:
            shared.insert(
                self.syncs.index("hogwild") + 1, Variant("hogwild+audit", "hogwild", True)
            )
        return (*shared, ALONE)

    def schedule(self) -> list[tuple[int, Variant]]:
        """(repeat, variant) in the order they run."""
        return in_turns(self.variants, self.repeats)


class DenseProblem(Problem, ABC):
    """A problem that is measured under every variant with a given number of workers.

    Attributes:
        takes_turns: whether workers train turn by turn, so that they can be delayed, bound, killed.
    """

    takes_turns: bool

    @abstractmethod
    def steps(self, plan: Comparison, workers: int) -> int:
        """Ticks of the meter that all workers of one launch make together."""

    @abstractmethod
    def cost(self, plan: Comparison, workers: int) -> float:
        """Rough seconds that `measure` takes; weighs the progress bar."""

    @abstractmethod
    def measure(self, plan: Comparison, workers: int, meter: Meter) -> list[SyncRow]:
        """All variants and repeats with `workers` workers, in one launch."""


@dataclass(frozen=True)
class SyncRow(Row):
    """One problem, case, variant and worker count.

    Rates are per second over all workers; counts are sums over repeats. `lost_updates` counts
    element updates and is None where they were not counted; `lost_share` is their part of all
    element updates pushed. `speedup` is against one worker of the same variant. `killed` counts
    workers and is None without a kill rate; `trained_again` counts the mini-batches that both a
    killed worker and its replacement pushed, `repairs` the locks taken over from dead owners.
    """

    case: str
    case_bytes: int
    variant: str
    sync: str | None
    audit: bool
    workers: int
    seconds: Spread
    updates_per_second: Spread
    element_updates_per_second: Spread
    pushes: int
    lock_wait_share: float
    lock_waits: int
    retries: int
    skipped_nonfinite: int
    lost_updates: int | None
    lost_share: float | None
    staleness: Staleness | None
    test_loss: Spread | None = None
    test_accuracy: Spread | None = None
    speedup: float | None = None
    curves: tuple[Curve, ...] = ()
    killed: int | None = None
    trained_again: int = 0
    repairs: int = 0


def with_speedups(rows: Sequence[SyncRow]) -> list[SyncRow]:
    """`rows` with `speedup` filled in where one worker of the same variant was measured."""
    alone = {(row.problem, row.case, row.variant): row for row in rows if row.workers == 1}

    def filled(row: SyncRow) -> SyncRow:
        base = alone.get((row.problem, row.case, row.variant))
        if base is None:
            return row
        if row.case:  # a fixed time: compare how much was done
            ratio = row.updates_per_second.median / base.updates_per_second.median
        else:  # a fixed number of examples: compare how long it took
            ratio = base.seconds.median / row.seconds.median
        return replace(row, speedup=ratio)

    return [filled(row) for row in rows]
