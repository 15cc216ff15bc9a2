"""What one comparison on sparse problems measures: the options, checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

WORKERS = (1, 2, 4, 8)  # as in the paper, whatever the machine


@dataclass(frozen=True)
class Plan:
    """Options of one comparison. `epochs` and `lr` None: by problem."""

    problems: tuple[str, ...]
    syncs: tuple[str, ...]
    workers: tuple[int, ...]
    repeats: int
    epochs: int | None
    lr: float | None
    seed: int
    quick: bool

    def as_json(self) -> dict[str, Any]:
        """All options by name."""
        return asdict(self)
