"""Throughput of many workers, predicted from the time and the places of one batch.

A batch of one worker goes through phases: it is computed, its gradient is transferred and pushed,
and parameters come back. Their sum without contention is the latency of a batch. Some phases use
places that workers share: the memory, a lock, a link, a core. For N workers, a latency of D, and B
seconds for which each batch occupies the busiest such place, the throughput is at most

    min(N / D, 1 / B)

batches per second: workers scale up to D / B of them, and further ones wait for that place (the
asymptotic bounds of Denning and Buzen, "The Operational Analysis of Queueing Network Models", 1978,
which are nearly reached where times vary little). Not modelled are cache lines that travel between
cores (see ``asyncopt simulate``) and interference between the computing of workers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from asyncopt.studies.rows import Row


@dataclass(frozen=True)
class Forecast(Row):
    """A mode of training and its predicted throughput.

    Attributes:
        mode: its name.
        how: the code for it; empty: it is shown for comparison.
        phases: seconds of a batch's latency, by phase.
        places: seconds that a batch keeps a shared place busy, by its name.
        workers: their number.
        alone: seconds of a batch of one worker that trains by itself, with nothing shared.
        late: own steps by which a gradient comes later than it could.
        batches: that make one update of the model.
    """

    mode: str
    how: str
    phases: dict[str, float]
    places: dict[str, float]
    workers: int
    alone: float
    late: int = 0
    batches: int = 1

    def later(self, steps: int) -> Forecast:
        """The forecast for gradients that are `steps` steps late."""
        return replace(self, late=steps)

    def in_step(self) -> Forecast:
        """The forecast for workers that make each update together."""
        return replace(self, batches=self.workers)

    @property
    def staleness(self) -> int:
        """Pushes that a gradient misses, about: one of every other worker, and late ones."""
        return 0 if self.batches > 1 else self.workers - 1 + self.late

    @property
    def latency(self) -> float:
        """Seconds of a batch without contention."""
        return sum(self.phases.values())

    @property
    def busiest(self) -> str:
        """The place that saturates first."""
        return max(self.places, key=lambda name: self.places[name])

    @property
    def knee(self) -> float:
        """Number of workers beyond which they wait for the busiest place."""
        return self.latency / self.places[self.busiest]

    @property
    def waits_for(self) -> str | None:
        """The place that these workers wait for; None: none."""
        return self.busiest if self.workers > self.knee * 1.001 else None

    @property
    def seconds(self) -> float:
        """From one batch of a worker to its next."""
        return max(self.latency, self.workers * self.places[self.busiest])

    @property
    def rate(self) -> float:
        """Batches per second of all workers."""
        return self.workers / self.seconds

    @property
    def speedup(self) -> float:
        """Against one worker that trains by itself."""
        return self.rate * self.alone

    def as_json(self) -> dict[str, Any]:
        """Fields and the numbers derived from them."""
        return {
            "mode": self.mode,
            "how": self.how,
            "seconds_per_step": self.seconds,
            "batches_per_second": self.rate,
            "speedup": self.speedup,
            "updates_per_second": self.rate / self.batches,
            "waits_for": self.waits_for,
            "scales_to_workers": self.knee,
            "staleness": self.staleness,
            "phases": self.phases,
            "places": self.places,
        }

    def columns(self) -> dict[str, Any]:
        """One line of a frame, without phases and places."""
        found = {"problem": self.problem, **self.as_json()}
        return {name: value for name, value in found.items() if not isinstance(value, dict)}
