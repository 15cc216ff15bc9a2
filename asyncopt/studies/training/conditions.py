"""What a measurement is put through, besides its work."""

from __future__ import annotations

from dataclasses import dataclass

from asyncopt.run.delays import Delay

TURNS = 64  # of which the mean delay is taken


@dataclass(frozen=True)
class Conditions:
    """What a launch is put through.

    Attributes:
        mode: what a worker is, as in ``launch``.
        delay: what workers sleep before each push; None: nothing.
        max_staleness: as in ``launch``.
        kill_rate: kills per second of a worker's working time; 0: none. In processes only.
        seed: of the kills.
    """

    mode: str
    delay: Delay | None = None
    max_staleness: int | None = None
    kill_rate: float = 0.0
    seed: int = 0

    def sleeps(self, workers: int) -> list[float]:
        """Rough mean delay of each worker, in seconds per turn."""
        if self.delay is None:
            return [0.0] * workers
        turns = range(TURNS)
        return [
            sum(self.delay.seconds(rank, turn) for turn in turns) / TURNS for rank in range(workers)
        ]
