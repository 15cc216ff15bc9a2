"""What was measured and what is predicted, as sheets of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from asyncopt.report.table import Sheet
from asyncopt.report.text import NOTHING, rate_text
from asyncopt.studies.diagnosis.findings import best_of, milliseconds
from asyncopt.studies.diagnosis.forecast import Forecast
from asyncopt.studies.diagnosis.rates import Rates
from asyncopt.studies.sheets import Column, sheet_of


class Measured(NamedTuple):
    """A line of what was measured."""

    what: str
    size: str
    alone: str
    together: str


def bandwidth(rate: float) -> str:
    """Bytes per second: ``12.4 GB/s``."""
    return f"{rate / 1e9:.3g} GB/s"


def rate_sheet(rates: Rates) -> Sheet:
    """Copies, pushes and transfers, a line each."""
    columns: list[Column[Measured]] = [
        Column("measured", "what moved", lambda line: line.what),
        Column("parameters", "how many were pushed", lambda line: line.size),
        Column("one thread", "time, and bytes per second", lambda line: line.alone),
        Column(f"{rates.threads} threads", "all of them", lambda line: line.together),
    ]
    lines = list(_measured(rates))
    return sheet_of(
        columns,
        lines,
        left=1,
        group=lambda line: line.what,
        aside=lambda line: False,
    )


def _measured(rates: Rates) -> Iterator[Measured]:
    yield Measured("copy", NOTHING, bandwidth(rates.copy), bandwidth(rates.copy_together))
    for rule, push in rates.pushes.items():
        for size, alone, together in zip(push.sizes, push.alone, push.together, strict=True):
            times = [
                f"{milliseconds(taken)}, {bandwidth(push.traffic * size / taken)}"
                for taken in (alone, together)
            ]
            yield Measured(f"push of {rule}", rate_text(size), *times)
    if rates.reduce is not None:
        yield Measured("all-reduce of two, gloo", NOTHING, bandwidth(rates.reduce), NOTHING)
    for device, link in rates.links.items():
        for way, rate in (
            ("to it, pinned", link.to_device),
            ("to it, pageable", link.pageable_to_device),
            ("from it, pinned", link.from_device),
            ("from it, pageable", link.pageable_from_device),
            ("copy on it", link.copy),
        ):
            yield Measured(f"{device}, {way}", NOTHING, bandwidth(rate), NOTHING)
    if rates.peer is not None:
        yield Measured("cuda:0 to cuda:1", NOTHING, bandwidth(rates.peer), NOTHING)


MODES: list[Column[Forecast]] = [
    Column("mode", "how workers train one model", lambda each: each.mode),
    Column(
        "step",
        "of a worker, from one of its batches to the next",
        lambda each: milliseconds(each.seconds),
    ),
    Column("batches/s", "of all workers", lambda each: rate_text(each.rate)),
    Column("speed-up", "against one worker by itself", lambda each: f"{each.speedup:.2f}x"),
    Column("staleness", "pushes that a gradient misses", lambda each: str(each.staleness)),
    Column("waits for", "what so many workers share", lambda each: each.waits_for or NOTHING),
]


def mode_sheet(found: Sequence[Forecast]) -> Sheet:
    """A line for each mode; all but the one that pays stand back."""
    best = best_of(found)
    return sheet_of(
        MODES, found, left=1, group=lambda each: each.mode, aside=lambda each: each is not best
    )
