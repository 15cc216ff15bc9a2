"""What every problem has."""

from __future__ import annotations

from typing import Protocol

from asyncopt.studies.dense.plan import Plan
from asyncopt.studies.results import Row
from asyncopt.studies.training.meter import Meter


class Problem(Protocol):
    """Something that can be measured under every variant with a given number of workers."""

    @property
    def name(self) -> str:
        """What ``--problem`` calls it."""

    @property
    def title(self) -> str:
        """Heading of its table."""

    @property
    def about(self) -> str:
        """One sentence on what is trained, for the report."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules outside asyncopt's own requirements."""

    @property
    def takes_turns(self) -> bool:
        """Whether its workers train turn by turn, so that they can be delayed, bound and killed."""

    def steps(self, plan: Plan, workers: int) -> int:
        """Ticks that all workers of one launch make together."""

    def cost(self, plan: Plan, workers: int) -> float:
        """Rough seconds that `measure` takes; weighs the progress bar."""

    def measure(self, plan: Plan, workers: int, meter: Meter) -> list[Row]:
        """All variants and repeats with `workers` workers, in one launch."""
