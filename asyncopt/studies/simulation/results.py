"""What a simulation yields: one `Row` per workload, sync and number of cores."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from asyncopt.studies.results import Spread, Staleness

SCHEMA = 1  # raise it when a field of results.json changes its meaning or goes away


@dataclass(frozen=True)
class Row:
    """A prediction, and beside it what was measured (None where it was not).

    `workload` is the case and the seconds of computing in words. Rates are pushes per second of all
    cores together; `waits` and `retries` are per push.
    """

    workload: str
    case: str
    compute: float
    sync: str
    cores: int
    updates_per_second: float
    staleness_mean: float
    staleness_p50: int
    staleness_p99: int
    waits: float
    retries: float
    measured_updates_per_second: Spread | None = None
    measured_staleness: Staleness | None = None

    @property
    def error(self) -> float | None:
        """Of the rate, against the median measured: 0.1 is a tenth too fast."""
        if self.measured_updates_per_second is None:
            return None
        return self.updates_per_second / self.measured_updates_per_second.median - 1

    @property
    def staleness_error(self) -> float | None:
        """Of the mean staleness; None also where none was stale."""
        if self.measured_staleness is None or self.measured_staleness.mean == 0:
            return None
        return self.staleness_mean / self.measured_staleness.mean - 1

    def as_json(self) -> dict[str, Any]:
        """All fields by name, and the errors."""
        rate = self.measured_updates_per_second
        return asdict(self) | {
            "measured_updates_per_second": None if rate is None else rate.as_json(),
            "error": self.error,
            "staleness_error": self.staleness_error,
        }
