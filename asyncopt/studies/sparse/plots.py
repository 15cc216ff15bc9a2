"""Plots of a comparison on sparse problems, each as SVG text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from asyncopt.report.style import GREY, drawn, legend, panels, plain_log
from asyncopt.studies.measures import Measure
from asyncopt.studies.pens import Pens, quartile_bars
from asyncopt.studies.results import Spread
from asyncopt.studies.sparse.results import Row


@drawn
def speedups(rows: Sequence[Row], cores: int, pens: Pens) -> Figure:
    """Speed-up against one worker of the same sync, with the quartiles; dashed: the ideal."""
    own = [row for row in rows if row.sync and row.speedup is not None]
    counts = sorted({row.workers for row in own})
    figure, (axis,) = panels(1, 1, 3.7, width=8.0)
    ideal = [min(count, cores) for count in counts]
    axis.plot(counts, ideal, color=GREY, linestyle=(0, (4, 3)), linewidth=1.2)
    for sync in dict.fromkeys(row.contender for row in own):
        line = [row for row in own if row.contender == sync]
        alone = next(row.seconds.median for row in line if row.workers == 1)
        ratios = [Spread(tuple(alone / each for each in row.seconds.values)) for row in line]
        quartile_bars(axis, [row.workers for row in line], ratios, pens.pen(sync))
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("workers")
    axis.set_ylabel("speed-up")
    axis.set_ylim(bottom=0)
    legend(figure, axis, "outside right upper", columns=1)
    return figure


@drawn
def error_against_time(rows: Sequence[Row], measure: Measure, pens: Pens) -> Figure:
    """What was reached and how long it took: a line through the worker counts of a contender."""
    figure, (axis,) = panels(1, 1, 3.7, width=8.0)
    for contender in dict.fromkeys(row.contender for row in rows):
        line = [row for row in rows if row.contender == contender]
        axis.plot(
            [row.seconds.median for row in line],
            [row.scores[measure.name].median for row in line],
            **pens.pen(contender),
        )
    axis.set_xscale("log")
    plain_log(axis.xaxis)
    axis.set_xlabel("time of a call of fit, s (log scale)")
    axis.set_ylabel(measure.heading)
    legend(figure, axis, "outside right upper", columns=1)
    return figure
