"""Plan, contender and row of the staleness study."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from asyncopt.studies.options import parse_delay, several
from asyncopt.studies.rows import Row, Spread, Staleness
from asyncopt.studies.study import Plan
from asyncopt.studies.training.jobs import CONSTANT
from asyncopt.studies.training.jobs import SCHEDULES as RATES
from asyncopt.studies.training.measure import Conditions

SCALED = "staleness"
SCHEDULES = {**RATES, SCALED: "a constant rate, divided by 1 + the staleness of each push"}
EVEN = "0.002"  # s: several times a step's computation, so that all workers overlap
STRAGGLER = 0.02  # s
NO_BOUND = "none"
SERIAL = "mutex"  # the sync of plain SGD: with one worker, any is serial


class Contender(NamedTuple):
    """A sync and a schedule of the learning rate."""

    sync: str
    schedule: str

    @property
    def serial(self) -> Contender:
        """Plain SGD to compare with: without staleness, a rate scaled by it is constant."""
        return Contender(SERIAL, CONSTANT if self.schedule == SCALED else self.schedule)


@dataclass(frozen=True)
class Delayed(Plan):
    """Options of one study. `epochs` and `lr` None: each problem's own choice."""

    problems: tuple[str, ...]
    delays: tuple[str, ...]
    max_staleness: tuple[int | None, ...]
    syncs: tuple[str, ...]
    schedules: tuple[str, ...]
    workers: int
    repeats: int
    epochs: int | None
    lr: float | None
    seed: int
    mode: str
    quick: bool

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Every sync with every schedule."""
        return tuple(
            Contender(sync, schedule) for sync in self.syncs for schedule in self.schedules
        )

    @property
    def launches(self) -> tuple[tuple[str, int | None], ...]:
        """Every delay with every bound."""
        return tuple(itertools.product(self.delays, self.max_staleness))

    def conditions(self, delay: str, bound: int | None) -> Conditions:
        """Conditions of one launch."""
        return Conditions(self.mode, parse_delay(delay, self.workers, self.seed), bound)

    @property
    def bounded(self) -> bool:
        """True if staleness is bounded in any launch."""
        return any(bound is not None for bound in self.max_staleness)

    @property
    def meanings(self) -> dict[str, str]:
        """Explanations of the schedules."""
        return {name: SCHEDULES[name] for name in self.schedules}


def parse_delays(
    delays: str | float | Iterable[str | float] | None, workers: int, seed: int
) -> tuple[str, ...]:
    """Distinct delays; by default none, the same for all, and a straggler, the last worker.

    Raises ValueError: one is none, or not for so many workers.
    """
    straggler = ",".join(["0"] * (workers - 1) + [f"{STRAGGLER:g}"])
    chosen = tuple(dict.fromkeys(map(str, several(delays) or ("0", EVEN, straggler))))
    for text in chosen:
        parse_delay(text, workers, seed)
    return chosen


def parse_bounds(bounds: int | str | Iterable[int | str | None] | None) -> tuple[int | None, ...]:
    """Distinct bounds of staleness, each a number of turns of other workers, or ``none``.

    Raises ValueError: one is neither.
    """
    return tuple(dict.fromkeys(map(_bound, several(bounds) or (None,))))


def _bound(bound: int | str | None) -> int | None:
    text = NO_BOUND if bound is None else str(bound)
    if text.casefold() == NO_BOUND:
        return None
    if not text.isdecimal():
        raise ValueError(f"expected a number of turns >= 0, or {NO_BOUND}; got {bound!r}")
    return int(text)


@dataclass(frozen=True)
class DelayRow(Row):
    """One problem, delay, bound, sync and schedule; every `Spread` is over the repeats.

    Plain SGD (one worker, serial, no delay) has no `delay`, `sync` and `staleness`. `scores` are by
    the names of the problem's measures. `ratio` is the problem's main measure over that of plain
    SGD from the same weights, on the same mini-batches with the same schedule, repeat by repeat;
    `gap_change` and `norm_ratio` are the gap's difference to it and the norm's ratio. `losses` has,
    for each repeat, the training loss over equal parts of its updates.
    """

    delay: str | None
    max_staleness: int | None
    sync: str | None
    schedule: str
    workers: int
    pushes: int
    seconds: Spread
    updates_per_second: Spread
    staleness: Staleness | None
    scores: dict[str, Spread]
    ratio: Spread
    gap_change: Spread
    norm_ratio: Spread
    losses: tuple[tuple[float, ...], ...]

    @property
    def is_serial(self) -> bool:
        """True if this is plain SGD, which the others are compared with."""
        return self.sync is None

    @property
    def name(self) -> str:
        """``hogwild (cosine)``; ``plain SGD (cosine)``."""
        return f"{self.sync or 'plain SGD'} ({self.schedule})"


def delay_text(delay: str | None) -> str:
    """``none``, or as the user wrote it."""
    return "none" if delay in (None, "0") else str(delay)
