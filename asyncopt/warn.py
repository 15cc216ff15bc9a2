"""Warnings from the depths of the package that point at the line which called it."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn_caller"]

_PACKAGE = __name__.partition(".")[0] + "."


def warn_caller(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Issue a warning at the nearest caller outside of this package."""
    frame = sys._getframe(1)
    level = 2
    while frame.f_back is not None and f"{frame.f_globals.get('__name__')}.".startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
