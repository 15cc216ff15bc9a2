"""Plots of a simulation, each as SVG text."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from asyncopt.report.style import drawn, legend, panels
from asyncopt.report.text import rate_text
from asyncopt.studies.pens import Pens
from asyncopt.studies.simulation.results import Row


@drawn
def rates(rows: Sequence[Row], pens: Pens) -> Figure:
    """Updates per second against cores: lines predicted, crosses measured."""
    figure, (axis,) = panels(1, 1, 3.9, width=8.5)
    for sync, own in _by_sync(rows):
        pen = pens.pen(sync) | {"markersize": 4}
        axis.plot([row.cores for row in own], [row.updates_per_second for row in own], **pen)
        real = [(r.cores, r.measured_updates_per_second) for r in own]
        points = [(cores, rate.median) for cores, rate in real if rate is not None]
        axis.plot(
            [cores for cores, _ in points],
            [rate for _, rate in points],
            linestyle="",
            marker="x",
            markersize=9,
            markeredgewidth=1.8,
            color=pen["color"],
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(value)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("updates per second (log scale)")
    _cores(axis, rows)
    legend(figure, axis, "outside right upper", columns=1)
    return figure


@drawn
def staleness(rows: Sequence[Row], pens: Pens) -> Figure:
    """Mean and 99th percentile of staleness against cores."""
    rows = [row for row in rows if row.cores > 1]
    figure, axes = panels(2, 2, 3.4)
    for axis, title in zip(axes, ("mean", "99th percentile"), strict=True):
        for sync, own in _by_sync(rows):
            values = [
                row.staleness_mean if title == "mean" else float(row.staleness_p99) for row in own
            ]
            axis.plot([row.cores for row in own], values, **pens.pen(sync) | {"markersize": 4})
        axis.set_title(title)
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
        _cores(axis, rows)
    axes[0].set_ylabel("staleness, pushes")
    legend(figure, axes[0])
    return figure


def _by_sync(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Each sync with its rows, by cores."""
    return [
        (sync, sorted((row for row in rows if row.sync == sync), key=lambda row: row.cores))
        for sync in dict.fromkeys(row.sync for row in rows)
    ]


def _cores(axis: Axes, rows: Sequence[Row]) -> None:
    axis.set_xscale("log", base=2)
    counts = sorted({row.cores for row in rows})
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("cores, one worker each")
