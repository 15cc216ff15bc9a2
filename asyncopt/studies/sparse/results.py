"""What a comparison on sparse problems yields: one `Row` per problem, contender and workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from asyncopt.studies.results import Spread

SCHEMA = 1  # raise it when a field of results.json changes its meaning or goes away


@dataclass(frozen=True)
class Row:
    """One line of the table; every `Spread` is over the repeats.

    `sync` is None for another library. `seconds` is of a whole call of fit; `scores` are by the
    names of the problem's measures; `speedup` is against one worker of the same contender.
    """

    problem: str
    contender: str
    sync: str | None
    workers: int
    epochs: int
    seconds: Spread
    scores: dict[str, Spread]
    speedup: float | None = None

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        scores = {name: score.as_json() for name, score in self.scores.items()}
        return asdict(self) | {"seconds": self.seconds.as_json(), "scores": scores}


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """`rows` with `speedup` filled in where one worker of the same contender was measured."""
    alone = {row.contender: row.seconds.median for row in rows if row.workers == 1}
    return [
        replace(row, speedup=alone[row.contender] / row.seconds.median)
        if row.contender in alone
        else row
        for row in rows
    ]
