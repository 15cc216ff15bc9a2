"""Numbers that a trained model is judged by."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Measure(NamedTuple):
    """A number that a trained model is judged by: its name in the results, and in tables."""

    name: str
    heading: str
    meaning: str
    text: Callable[[float], str]
    rising: bool = False  # whether more of it is better


def three_digits(value: float) -> str:
    """``0.123``, ``1.2e-05``."""
    return f"{value:.3g}"


def four_digits(value: float) -> str:
    """``0.9120``: what differs by less than a percent."""
    return f"{value:#.4g}".rstrip(".")
