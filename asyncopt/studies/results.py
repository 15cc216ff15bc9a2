"""What a comparison yields: one `Row` per problem, case, variant and worker count."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

import asyncopt

SCHEMA = 1  # raise it when a field of results.json changes its meaning or goes away


@dataclass(frozen=True)
class Spread:
    """Repeats of one measurement."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the repeats are below."""
        return float(np.median(self.values))

    @property
    def q1(self) -> float:
        """A quarter of the repeats are below."""
        return float(np.percentile(self.values, 25))

    @property
    def q3(self) -> float:
        """Three quarters of the repeats are below."""
        return float(np.percentile(self.values, 75))

    def is_above(self, other: Spread) -> bool:
        """Whether it is more than `other`, beyond the spread of both and by enough to matter."""
        # Fewer than three repeats have no spread to speak of.
        enough = 1.02 if min(len(self.values), len(other.values)) >= 3 else 1.2
        return self.q1 > other.q3 and self.median > enough * other.median

    def as_json(self) -> dict[str, Any]:
        """Quartiles and values."""
        return {"median": self.median, "q1": self.q1, "q3": self.q3, "values": list(self.values)}


@dataclass(frozen=True)
class Staleness:
    """Pushes by how many other pushes landed between pull and push.

    Bin i counts ``edges[i] <= staleness < edges[i + 1]``.
    """

    p50: float
    p99: float
    mean: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Curve:
    """Training loss (mean over a slice of mini-batches) against seconds since the start."""

    seconds: tuple[float, ...]
    loss: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One line of the table. Rates are per second over all workers; counts are sums over repeats.

    `lost_updates` counts element updates and is None where nobody counted them; `lost_share` is
    their part of all element updates pushed. `speedup` is against one worker of the same variant.
    `killed` counts workers and is None where nobody was to be killed; `trained_again` counts the
    mini-batches that both one of them and its replacement pushed, `repairs` the locks taken over
    from dead owners.
    """

    problem: str
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

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        fields = asdict(self)
        for name, value in vars(self).items():
            if isinstance(value, Spread):
                fields[name] = value.as_json()
        return fields


def staleness_of(ledger: asyncopt.Ledger) -> Staleness | None:
    """The ledger's staleness histogram, trailing empty bins cut; None where nothing was pushed."""
    histogram = ledger.staleness
    counts = np.asarray(histogram.counts)
    if not counts.any():
        return None
    bins = int(np.flatnonzero(counts)[-1]) + 1
    # The histogram names where bins begin; the last one that counted anything ends somewhere too.
    end = float(histogram.edges[bins] if bins < len(counts) else 2 * histogram.edges[-1])
    return Staleness(
        p50=float(histogram.percentile(50)),
        p99=float(histogram.percentile(99)),
        mean=float(histogram.mean),
        edges=(*(float(edge) for edge in histogram.edges[:bins]), end),
        counts=tuple(int(count) for count in counts[:bins]),
    )


def curve_of(points: Iterable[tuple[float, float]], most: int = 30) -> Curve:
    """A curve from (seconds, loss) of mini-batches, averaged over at most `most` slices of them.

    One mini-batch's loss is too noisy to compare by eye.
    """
    ordered = np.asarray(sorted(points), dtype=np.float64).reshape(-1, 2)
    slices = np.array_split(ordered, min(most, len(ordered))) if len(ordered) else []
    means = [part.mean(axis=0) for part in slices]
    return Curve(
        seconds=tuple(float(mean[0]) for mean in means),
        loss=tuple(float(mean[1]) for mean in means),
    )


def with_speedups(rows: Sequence[Row]) -> list[Row]:
    """`rows` with `speedup` filled in where one worker of the same variant was measured."""
    alone = {(row.problem, row.case, row.variant): row for row in rows if row.workers == 1}

    def filled(row: Row) -> Row:
        base = alone.get((row.problem, row.case, row.variant))
        if base is None:
            return row
        if row.case:
            # A fixed time, however much got done: compare what got done.
            ratio = row.updates_per_second.median / base.updates_per_second.median
        else:
            # A fixed number of examples, however long it took: compare how long.
            ratio = base.seconds.median / row.seconds.median
        return replace(row, speedup=ratio)

    return [filled(row) for row in rows]


def plain(value: Any) -> Any:
    """`value` as JSON can say it: tuples become lists, NaN and infinities become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
