"""How contenders and worker counts are drawn, the same in every plot of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from asyncopt.report.style import GREY, MARKERS, PALETTE
from asyncopt.studies.dense.plan import UNSHARED
from asyncopt.studies.results import Spread

BLUES = ("#8cc0e4", "#2f7fbf", "#0b3c78", "#000000", "#4b2a7a", "#8a5aa8")  # more workers: darker


class Pens:
    """A colour, marker and dash for each variant, the same in every plot of a report."""

    def __init__(self, variants: Sequence[str]) -> None:
        self._syncs = list(dict.fromkeys(name.removesuffix("+audit") for name in variants))

    def pen(self, variant: str) -> dict[str, Any]:
        """Keyword arguments for matplotlib's line functions."""
        if variant == UNSHARED:
            return {"color": GREY, "linestyle": (0, (4, 3)), "label": variant}
        place = self._syncs.index(variant.removesuffix("+audit"))
        audited = variant.endswith("+audit")
        colour = PALETTE[place % len(PALETTE)]
        return {
            "color": colour,
            # Of more contenders than colours, those of one colour differ in their markers.
            "marker": MARKERS[(place + place // len(PALETTE)) % len(MARKERS)],
            "markersize": 5,
            "markerfacecolor": "white" if audited else colour,
            "linestyle": (0, (1, 1.5)) if audited else "-",
            "label": variant,
        }


def workers_text(count: int) -> str:
    """``1 worker``, ``2 workers``."""
    return f"{count} worker{'s' if count > 1 else ''}"


def shade(count: int, counts: Sequence[int]) -> str:
    """The colour of a worker count among `counts`."""
    return BLUES[min(counts.index(count), len(BLUES) - 1)]


def quartile_bars(
    axis: Axes, places: Sequence[float], spreads: Sequence[Spread], pen: dict[str, Any]
) -> None:
    """A line through the medians, each with a bar from the lower quartile to the upper one."""
    axis.errorbar(
        places,
        [spread.median for spread in spreads],
        yerr=[
            [spread.median - spread.q1 for spread in spreads],
            [spread.q3 - spread.median for spread in spreads],
        ],
        capsize=2.5,
        elinewidth=1,
        **pen,
    )
