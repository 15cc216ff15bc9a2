"""What a batch takes of everything, and what comes of it with many workers.

A batch of one worker goes through phases: it is computed, its gradient travels, is pushed, and
parameters come back. What they take, when nobody else is there, is the latency of a batch. Some of
it takes place where workers meet: in the memory, under a lock, on a link, on a core. For N workers,
a latency of D, and B seconds for which each batch occupies the busiest such place, the throughput
is at most

    min(N / D, 1 / B)

batches per second: workers scale up to D / B of them, and further ones wait for that place (the
asymptotic bounds of Denning and Buzen, "The Operational Analysis of Queueing Network Models", 1978,
which are nearly reached where times vary little). Left out are cache lines on their way between
cores, for which there is ``asyncopt simulate``, and what workers do to each other's computing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Forecast:
    """A mode and what it comes to.

    Attributes:
        mode: its name.
        how: what to write for it; empty: it is shown to compare with.
        phases: seconds of a batch's latency, by what they are spent on.
        places: seconds that a batch keeps what workers share busy, by its name.
        workers: how many.
        alone: seconds of a batch of one worker that trains by itself, with nothing shared.
        late: steps of its own by which a gradient comes later than it could.
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
        """The same where gradients come so many steps later."""
        return replace(self, late=steps)

    def in_step(self) -> Forecast:
        """The same where all workers make each update together."""
        return replace(self, batches=self.workers)

    @property
    def staleness(self) -> int:
        """Pushes that a gradient misses, about: one of every other worker, and late ones."""
        return 0 if self.batches > 1 else self.workers - 1 + self.late

    @property
    def latency(self) -> float:
        """Seconds of a batch with nobody in the way."""
        return sum(self.phases.values())

    @property
    def busiest(self) -> str:
        """The place that is the first to be full."""
        return max(self.places, key=lambda name: self.places[name])

    @property
    def knee(self) -> float:
        """How many workers there can be before they wait for the busiest place."""
        return self.latency / self.places[self.busiest]

    @property
    def waits_for(self) -> str | None:
        """The place that these workers wait for; None: they need not."""
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
        """Fields and what follows from them."""
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
