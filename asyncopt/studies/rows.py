"""Rows of results: what was measured, over its repeats, as JSON and as columns of a frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np

from asyncopt.report.table import Column
from asyncopt.store import Ledger

TIME_MEANING = "median ± half the interquartile range, in percent"


@dataclass(frozen=True)
class Row:
    """A measurement of a problem; each study has its own frozen dataclass."""

    problem: str

    def as_json(self) -> dict[str, Any]:
        """All fields by name."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def columns(self) -> dict[str, Any]:
        """One line of a frame: a median with its quartiles for each spread; no curves."""
        found: dict[str, Any] = {}
        for field in fields(self):
            found |= _columns(field.name, getattr(self, field.name))
        return found


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
        """True if it exceeds `other` by more than the spread of both, and by enough to matter."""
        # Fewer than three repeats have no spread to speak of.
        enough = 1.02 if min(len(self.values), len(other.values)) >= 3 else 1.2
        return self.q1 > other.q3 and self.median > enough * other.median

    def __str__(self) -> str:
        """Median, and half the distance between the quartiles in percent: ``1.23 ±4%``."""
        half = (self.q3 - self.q1) / 2 / self.median
        return f"{self.median:.{2 if self.median >= 1 else 3}f} ±{half:.0%}"


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


class Measure(NamedTuple):
    """A score of a trained model: its name in results, its heading in tables, its meaning."""

    name: str
    heading: str
    meaning: str
    text: Callable[[float], str]
    rising: bool = False  # whether more of it is better

    def column(self) -> Column[Any]:
        """The median of this score, in a table of rows with `scores`."""
        return Column(
            self.heading, self.meaning, lambda row: self.text(row.scores[self.name].median)
        )


def staleness_of(ledger: Ledger) -> Staleness | None:
    """The ledger's staleness histogram, trailing empty bins cut; None where nothing was pushed."""
    histogram = ledger.staleness
    counts = np.asarray(histogram.counts)
    if not counts.any():
        return None
    bins = int(np.flatnonzero(counts)[-1]) + 1
    # The histogram has the lower edges of its bins; the last bin that counted also needs an upper.
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

    The loss of one mini-batch is too noisy to compare by eye.
    """
    ordered = np.asarray(sorted(points), dtype=np.float64).reshape(-1, 2)
    slices = np.array_split(ordered, min(most, len(ordered))) if len(ordered) else []
    means = [part.mean(axis=0) for part in slices]
    return Curve(
        seconds=tuple(float(mean[0]) for mean in means),
        loss=tuple(float(mean[1]) for mean in means),
    )


def plain(value: Any) -> Any:
    """`value` for JSON: spreads get their quartiles, tuples become lists, NaN becomes None."""
    if isinstance(value, Spread):
        value = {"median": value.median, "q1": value.q1, "q3": value.q3, "values": value.values}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _columns(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Spread):
        return {name: value.median, f"{name}_q1": value.q1, f"{name}_q3": value.q3}
    if isinstance(value, Staleness):
        return {f"{name}_{each}": getattr(value, each) for each in ("mean", "p50", "p99")}
    if isinstance(value, dict):
        parts = [_columns(key, item) for key, item in value.items()]
        return {key: item for part in parts for key, item in part.items()}
    return {} if isinstance(value, tuple) else {name: value}
