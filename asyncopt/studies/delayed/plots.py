"""Plots of a study, each as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from asyncopt.report.style import GREY, drawn, legend, panels, plain_log
from asyncopt.studies.delayed.plan import Contender
from asyncopt.studies.delayed.results import Row, delay_text
from asyncopt.studies.measures import Measure
from asyncopt.studies.pens import Pens, quartile_bars


@drawn
def against_staleness(rows: Sequence[Row], measure: Measure, pens: Pens, log: bool) -> Figure:
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
            quartile_bars(axis, [_mean(row) for row in line], scores, pens.pen(schedule))
        axis.set_title(sync)
        axis.set_xlabel("mean staleness, pushes")
        if log:
            axis.set_yscale("log")
            plain_log(axis.yaxis)
    axes[0].set_ylabel(measure.heading + (" (log scale)" if log else ""))
    legend(figure, axes[0])
    return figure


def _mean(row: Row) -> float:
    return 0.0 if row.staleness is None else row.staleness.mean


@drawn
def losses(rows: Sequence[Row], sync: str, pens: Pens) -> Figure:
    """Training loss over the updates: a panel per delay and bound, a line per schedule."""
    own = [row for row in rows if row.sync == sync]
    conditions = list(dict.fromkeys((row.delay, row.max_staleness) for row in own))
    figure, axes = panels(len(conditions), 3, 2.9)
    for place, (axis, (delay, bound)) in enumerate(zip(axes, conditions, strict=True)):
        for row in own:
            if (row.delay, row.max_staleness) == (delay, bound):
                _curve(axis, row, pens.pen(row.schedule) | {"marker": ""})
        plain = next(row for row in rows if row.is_serial)
        pen = {"color": GREY, "linestyle": (0, (4, 3)), "linewidth": 1.2, "label": plain.name}
        _curve(axis, plain, pen)
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


def _curve(axis: Axes, row: Row, pen: dict[str, Any]) -> None:
    """The mean over the repeats."""
    mean = np.mean(row.losses, axis=0)
    axis.plot((np.arange(len(mean)) + 0.5) / len(mean), mean, **pen)
