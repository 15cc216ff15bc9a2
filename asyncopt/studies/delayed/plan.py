"""What one ``asyncopt staleness`` measures: the options, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from asyncopt.studies.delays import parse_delay
from asyncopt.studies.training.conditions import Conditions
from asyncopt.studies.training.schedules import CONSTANT
from asyncopt.studies.training.schedules import SCHEDULES as RATES

SCALED = "staleness"
SCHEDULES = {**RATES, SCALED: "a constant rate, divided by 1 + the staleness of each push"}
EVEN = "0.002"  # s: several times a step's computation, so that all workers are at it at once
STRAGGLER = 0.02  # s
NO_BOUND = "none"
SERIAL = "mutex"  # the sync of plain SGD: with one worker, any is serial


class Contender(NamedTuple):
    """How updates reach shared memory, and how long their steps are."""

    sync: str
    schedule: str

    @property
    def serial(self) -> Contender:
        """Plain SGD to compare with: where nothing is stale, a rate scaled by it is constant."""
        return Contender(SERIAL, CONSTANT if self.schedule == SCALED else self.schedule)


@dataclass(frozen=True)
class Plan:
    """Options of one study. `epochs` and `lr` None: each problem's own choice."""

    problems: tuple[str, ...]
    delays: tuple[str, ...]
    bounds: tuple[int | None, ...]
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

    def conditions(self, delay: str, bound: int | None) -> Conditions:
        """Those of one launch."""
        return Conditions(self.mode, parse_delay(delay, self.workers, self.seed), bound)

    def as_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)


def default_delays(workers: int) -> tuple[str, ...]:
    """None, the same for all, and a straggler: only the last worker is slow."""
    straggler = ",".join(["0"] * (workers - 1) + [f"{STRAGGLER:g}"])
    return ("0", EVEN, straggler)


def parse_bound(text: str) -> int | None:
    """A bound of staleness from text: turns of other workers, or ``none``.

    Raises ValueError: it is neither.
    """
    if text.casefold() == NO_BOUND:
        return None
    if not text.isdecimal():
        raise ValueError(f"expected a number of turns >= 0, or {NO_BOUND}; got {text!r}")
    return int(text)
