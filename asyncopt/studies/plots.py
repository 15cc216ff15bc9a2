"""Parts of the plots of several studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from asyncopt.studies.rows import Spread


def quartile_bars(
    axis: Axes, places: Sequence[float], spreads: Sequence[Spread], style: dict[str, Any]
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
        **style,
    )
