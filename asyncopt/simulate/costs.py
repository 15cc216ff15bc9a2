"""Costs of the steps of a push, in seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple


class LineCost(NamedTuple):
    """Seconds per cache line: last used by this core, or last written by another core."""

    own: float
    remote: float


@dataclass(frozen=True)
class Costs:
    """Costs in seconds; a `LineCost` and `check` are per cache line of 64 bytes.

    Attributes:
        call: a push outside the parameters: what surrounds the engine, and its counting.
        transfer: transfer of a word that another core wrote.
        lock: taking and releasing a free lock that this core held last.
        sleep: a system call that need not sleep for a lock.
        wake: from the release of a lock until a sleeping waiter runs.
        wake_call: time of the releaser for a release that wakes a waiter.
        update: plain stores to a line.
        stripe: the same, a stripe of lines at a time.
        exchange: its elements one by one, by compare-exchange.
        copy: a line of one whole version to another version, or to a replica.
        snapshot: a line to a replica, in words that may be written meanwhile.
        check: a line of a gradient, whether it is finite.

    Raises:
        ValueError: one of them is negative or not a number.
    """

    call: float
    transfer: float
    lock: float
    sleep: float
    wake: float
    wake_call: float
    update: LineCost
    stripe: LineCost
    exchange: LineCost
    copy: LineCost
    snapshot: LineCost
    check: float

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for part in value if isinstance(value, LineCost) else (value,):
                if not (isinstance(part, int | float) and 0 <= part < math.inf):
                    raise ValueError(f"{field.name}: expected seconds >= 0, got {part!r}")

    @classmethod
    def from_json(cls, document: object) -> Costs:
        """The costs that `as_json` wrote.

        Raises:
            ValueError: `document` has not exactly these costs.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(document, Mapping) or set(document) != names:
            given = sorted(document) if isinstance(document, Mapping) else document
            raise ValueError(f"costs: expected {', '.join(sorted(names))}; got {given}")
        values = dict(document)
        for field in fields(cls):
            if field.type == "LineCost":
                pair = values[field.name]
                if not isinstance(pair, Mapping) or set(pair) != {"own", "remote"}:
                    raise ValueError(f"{field.name}: expected own and remote, got {pair!r}")
                values[field.name] = LineCost(**pair)
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        """By name; a `LineCost` as ``{"own": ..., "remote": ...}``."""
        return {
            name: value._asdict() if isinstance(value, LineCost) else value
            for name, value in asdict(self).items()
        }
