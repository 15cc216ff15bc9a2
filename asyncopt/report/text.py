"""Numbers as people read them."""

from __future__ import annotations

import math

NOTHING = "-"


def rate_text(rate: float) -> str:
    """Per second, three digits: ``873``, ``12.4k``, ``1.05M``, ``3.2G``."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= 0.9995 * scale:
            value = rate / scale
            return f"{value:.3g}{unit}" if value < 999.5 else f"{value:.0f}{unit}"
    return f"{rate:.3g}"


def share_text(share: float | None) -> str:
    """A part of one in percent; anything above zero never reads as zero."""
    if share is None:
        return NOTHING
    if share == 0:
        return "0"
    if share < 1e-4:
        return "<0.01%"
    return f"{share:.2%}" if share < 0.0995 else f"{share:.1%}"


def size_text(size: int | None) -> str:
    """Bytes for people: ``32 KiB``, ``1.5 GiB``; None is ``unknown``, -1 ``unlimited``."""
    if size is None:
        return "unknown"
    if size < 0:
        return "unlimited"
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def workers_text(count: int) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{count} worker{'s' if count > 1 else ''}"


def three_digits(value: float) -> str:
    """``0.123``, ``1.2e-05``."""
    return f"{value:.3g}"


def four_digits(value: float) -> str:
    """``0.9120``: for values that differ by less than a percent."""
    return f"{value:#.4g}".rstrip(".")


def times_text(ratio: float) -> str:
    """``1.02x``, ``3.1e+05x``; ``diverged`` where it is not a number."""
    if not math.isfinite(ratio):
        return "diverged"
    return f"{ratio:.2f}x" if ratio < 100 else f"{ratio:.3g}x"
