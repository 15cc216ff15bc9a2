"""Plots of a comparison on sparse problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from asyncopt.report.page import Picture
from asyncopt.report.style import (
    DASHED,
    GREY,
    LineStyles,
    drawn,
    legend,
    log2_ticks,
    panels,
    plain_log,
    quartile_bars,
)
from asyncopt.studies.rows import Measure, Spread
from asyncopt.studies.sparse.problem import FitRow, SparseProblem
from asyncopt.studies.training.jobs import UNSHARED


def pictures(problem: SparseProblem, rows: Sequence[FitRow], cores: int) -> Iterator[Picture]:
    """All plots of one problem."""
    styles = LineStyles(list(dict.fromkeys(row.contender for row in rows)), reference=UNSHARED)
    main = problem.main
    if len({row.workers for row in rows if row.speedup is not None}) > 1:
        yield Picture(
            "Speed-up against workers",
            speedups(f"{problem.name}-speedups", rows, cores, styles),
            "Against one worker of the same sync, with the quartiles of the repeats. The dashed "
            f"line is n times as fast with n workers, up to the {cores} usable cores.",
        )
    yield Picture(
        f"{main.heading.capitalize()} against time",
        error_against_time(f"{problem.name}-error", rows, main, styles),
        f"The {main.meaning} after the last pass, against the time of the call: a point for each "
        f"number of workers. Left and {'high' if main.rising else 'low'} is better.",
    )


@drawn
def speedups(rows: Sequence[FitRow], cores: int, styles: LineStyles) -> Figure:
    """Speed-up against one worker of the same sync, with the quartiles; dashed: the ideal."""
    own = [row for row in rows if row.sync and row.speedup is not None]
    counts = sorted({row.workers for row in own})
    figure, (axis,) = panels(1, 1, 3.7, width=8.0)
    ideal = [min(count, cores) for count in counts]
    axis.plot(counts, ideal, color=GREY, linestyle=DASHED, linewidth=1.2)
    for sync in dict.fromkeys(row.contender for row in own):
        line = [row for row in own if row.contender == sync]
        alone = next(row.seconds.median for row in line if row.workers == 1)
        ratios = [Spread(tuple(alone / each for each in row.seconds.values)) for row in line]
        quartile_bars(axis, [row.workers for row in line], ratios, styles[sync])
    log2_ticks(axis, counts, "workers")
    axis.set_ylabel("speed-up")
    axis.set_ylim(bottom=0)
    legend(figure, axis, "outside right upper", columns=1)
    return figure


@drawn
def error_against_time(rows: Sequence[FitRow], measure: Measure, styles: LineStyles) -> Figure:
    """The score against the time of the call: a line through the worker counts of a contender."""
    figure, (axis,) = panels(1, 1, 3.7, width=8.0)
    for contender in dict.fromkeys(row.contender for row in rows):
        line = [row for row in rows if row.contender == contender]
        axis.plot(
            [row.seconds.median for row in line],
            [row.scores[measure.name].median for row in line],
            **styles[contender],
        )
    axis.set_xscale("log")
    plain_log(axis.xaxis)
    axis.set_xlabel("time of a call of fit, s (log scale)")
    axis.set_ylabel(measure.heading)
    legend(figure, axis, "outside right upper", columns=1)
    return figure
