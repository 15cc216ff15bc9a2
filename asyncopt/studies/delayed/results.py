"""What a study yields: one `Row` per problem, delay, bound, sync and schedule."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from asyncopt.studies.results import Spread, Staleness

SCHEMA = 1  # raise it when a field of results.json changes its meaning or goes away


@dataclass(frozen=True)
class Row:
    """One line of the table; every `Spread` is over the repeats.

    Plain SGD (one worker, serial, no delay) has no `delay`, `sync` and `staleness`. `scores` are by
    the names of the problem's measures. `ratio` is the problem's main measure over that of plain
    SGD from the same weights, on the same mini-batches with the same schedule, repeat by repeat;
    `gap_change` and `norm_ratio` are the gap's difference to it and the norm's ratio. `losses` has,
    for each repeat, the training loss over equal parts of its updates.
    """

    problem: str
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
        """Whether this is plain SGD, which the others are compared with."""
        return self.sync is None

    @property
    def name(self) -> str:
        """``hogwild (cosine)``; ``plain SGD (cosine)``."""
        return f"{self.sync or 'plain SGD'} ({self.schedule})"

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        fields = asdict(self)
        for name, value in vars(self).items():
            if isinstance(value, Spread):
                fields[name] = value.as_json()
        fields["scores"] = {name: score.as_json() for name, score in self.scores.items()}
        return fields


def delay_text(delay: str | None) -> str:
    """``none``, or as the user wrote it."""
    return "none" if delay in (None, "0") else str(delay)


def times(ratio: float) -> str:
    """``1.02x``, ``3.1e+05x``; ``diverged`` where it is no number."""
    if not math.isfinite(ratio):
        return "diverged"
    return f"{ratio:.2f}x" if ratio < 100 else f"{ratio:.3g}x"
