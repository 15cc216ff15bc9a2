"""Checks of arguments; a message names the argument, the expected value and the given one."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from asyncopt.errors import ArgumentTypeError

__all__ = ["flag", "one_of", "real", "real_or_none", "whole"]


def whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    """``value`` as an int.

    Raises:
        ArgumentTypeError: it is no integer.
        ValueError: it is below ``low`` or above ``high``.
    """
    bounds = f">= {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{name}: expected an integer {bounds}, got {value!r}")
    number = int(value)
    if number < low or (high is not None and number > high):
        raise ValueError(f"{name}: expected an integer {bounds}, got {value!r}")
    return number


def real(name: str, value: Any, low: float, high: float = math.inf, open_: bool = False) -> None:
    """Raise ValueError unless ``value`` is a finite number in [low, high], or above low if open."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not low <= value <= high or math.isinf(value) or (open_ and value == low):
        begin = f"above {low:g}" if open_ else f"of at least {low:g}"
        end = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name}: expected a finite number {begin}{end}, got {value!r}")


def real_or_none(
    name: str, value: Any, low: float, high: float = math.inf, open_: bool = False
) -> None:
    """Raise ValueError unless ``value`` is None or as `real` requires."""
    if value is not None:
        real(name, value, low, high, open_)


def flag(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name}: expected True or False, got {value!r}")


def one_of(name: str, value: object, known: Sequence[object], where: str = "") -> None:
    """Raise ValueError unless ``value`` is one of those known."""
    if not any(value is each or (isinstance(value, str) and value == each) for each in known):
        names = ", ".join(repr(each) for each in known)
        expected = f"one of {names}" if len(known) > 1 else names
        place = f" {where}" if where else ""
        raise ValueError(f"{name}: expected {expected}{place}; got {value!r}")
