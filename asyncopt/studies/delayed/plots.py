"""Plots of the staleness study, each as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from asyncopt.report.page import Picture
from asyncopt.report.style import (
    DASHED,
    GREY,
    LineStyles,
    drawn,
    legend,
    panels,
    plain_log,
    quartile_bars,
)
from asyncopt.studies.delayed.plan import Contender, Delayed, DelayRow, delay_text
from asyncopt.studies.delayed.problems import GAP, DelayedProblem
from asyncopt.studies.rows import Measure


def pictures(plan: Delayed, problem: DelayedProblem, rows: Sequence[DelayRow]) -> Iterator[Picture]:
    """All plots of one problem."""
    styles = LineStyles(plan.schedules)
    name, main = problem.name, problem.main
    yield Picture(
        f"{main.heading.capitalize()} against staleness",
        against_staleness(f"{name}-{main.name}", rows, main, styles, log=True),
        f"{main.heading.capitalize()} ({main.meaning}) after training, with the quartiles of the "
        "repeats: plain SGD with the same schedule on the left, then a point per delay.",
    )
    yield Picture(
        "Gap against staleness",
        against_staleness(f"{name}-gap", rows, GAP, styles, log=False),
        f"The {GAP.meaning}: lower is better generalization at an equal training loss.",
    )
    yield Picture(
        f"Loss over the updates under {plan.syncs[0]}",
        losses(f"{name}-losses", rows, plan.syncs[0], styles),
        "Training loss, averaged over equal parts of the updates and over the repeats. The dashed "
        "line is plain SGD with the first schedule.",
    )


@drawn
def against_staleness(
    rows: Sequence[DelayRow], measure: Measure, styles: LineStyles, log: bool
) -> Figure:
    """A measure against mean staleness: a panel per sync, a line per schedule, with quartiles."""
    syncs = list(dict.fromkeys(row.sync for row in rows if row.sync))
    schedules = list(dict.fromkeys(row.schedule for row in rows if row.sync))
    figure, axes = panels(len(syncs), 3, 3.2)
    for axis, sync in zip(axes, syncs, strict=True):
        for schedule in schedules:
            serial = Contender(sync, schedule).serial.schedule
            line = sorted(
                (
                    row
                    for row in rows
                    if (row.sync, row.schedule) in ((sync, schedule), (None, serial))
                ),
                key=_mean,
            )
            scores = [row.scores[measure.name] for row in line]
            quartile_bars(axis, [_mean(row) for row in line], scores, styles[schedule])
        axis.set_title(sync)
        axis.set_xlabel("mean staleness, pushes")
        if log:
            axis.set_yscale("log")
            plain_log(axis.yaxis)
    axes[0].set_ylabel(measure.heading + (" (log scale)" if log else ""))
    legend(figure, axes[0])
    return figure


def _mean(row: DelayRow) -> float:
    return 0.0 if row.staleness is None else row.staleness.mean


@drawn
def losses(rows: Sequence[DelayRow], sync: str, styles: LineStyles) -> Figure:
    """Training loss over the updates: a panel per delay and bound, a line per schedule."""
    own = [row for row in rows if row.sync == sync]
    conditions = list(dict.fromkeys((row.delay, row.max_staleness) for row in own))
    figure, axes = panels(len(conditions), 3, 2.9)
    for place, (axis, (delay, bound)) in enumerate(zip(axes, conditions, strict=True)):
        for row in own:
            if (row.delay, row.max_staleness) == (delay, bound):
                _curve(axis, row, styles[row.schedule] | {"marker": ""})
        plain = next(row for row in rows if row.is_serial)
        style = {"color": GREY, "linestyle": DASHED, "linewidth": 1.2, "label": plain.name}
        _curve(axis, plain, style)
        limit = "" if bound is None else f", staleness {bound} at most"
        axis.set_title(f"delay {delay_text(delay)}{limit}")
        axis.set_yscale("log")
        plain_log(axis.yaxis)
        axis.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axis.set_xlabel("share of updates")
        if place % 3 == 0:
            axis.set_ylabel("training loss (log scale)")
    legend(figure, axes[0])
    return figure


def _curve(axis: Axes, row: DelayRow, style: dict[str, Any]) -> None:
    """The mean over the repeats."""
    mean = np.mean(row.losses, axis=0)
    axis.plot((np.arange(len(mean)) + 0.5) / len(mean), mean, **style)
