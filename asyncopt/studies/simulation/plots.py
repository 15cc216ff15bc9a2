"""Plots of a simulation, each as SVG text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from asyncopt.report.page import Picture
from asyncopt.report.style import LineStyles, drawn, legend, log2_ticks, panels
from asyncopt.report.text import rate_text
from asyncopt.studies.simulation.plan import PredictionRow


def pictures(number: int, rows: Sequence[PredictionRow], syncs: Sequence[str]) -> Iterator[Picture]:
    """All plots of one workload, the `number`-th of the page."""
    styles = LineStyles(syncs)
    yield Picture(
        "Throughput against cores",
        rates(f"rates-{number}", rows, styles),
        "Lines are predicted, crosses measured on this machine.",
    )
    if any(row.cores > 1 for row in rows):
        yield Picture(
            "Staleness against cores",
            staleness(f"staleness-{number}", rows, styles),
            "Pushes by others between a worker's pull and its push, predicted. Workers in turns "
            "all have a staleness of one less than the cores; a 99th percentile far above the "
            "mean shows that a lock is passed on unfairly.",
        )


@drawn
def rates(rows: Sequence[PredictionRow], styles: LineStyles) -> Figure:
    """Updates per second against cores: lines predicted, crosses measured."""
    figure, (axis,) = panels(1, 1, 3.9, width=8.5)
    for sync, own in _by_sync(rows):
        style = styles[sync] | {"markersize": 4}
        axis.plot([row.cores for row in own], [row.updates_per_second for row in own], **style)
        real = [(r.cores, r.measured_updates_per_second) for r in own]
        points = [(cores, rate.median) for cores, rate in real if rate is not None]
        axis.plot(
            [cores for cores, _ in points],
            [rate for _, rate in points],
            linestyle="",
            marker="x",
            markersize=9,
            markeredgewidth=1.8,
            color=style["color"],
        )
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(value)))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel("updates per second (log scale)")
    log2_ticks(axis, sorted({row.cores for row in rows}), "cores, one worker each")
    legend(figure, axis, "outside right upper", columns=1)
    return figure


@drawn
def staleness(rows: Sequence[PredictionRow], styles: LineStyles) -> Figure:
    """Mean and 99th percentile of staleness against cores."""
    rows = [row for row in rows if row.cores > 1]
    figure, axes = panels(2, 2, 3.4)
    for axis, title in zip(axes, ("mean", "99th percentile"), strict=True):
        for sync, own in _by_sync(rows):
            values = [
                row.staleness_mean if title == "mean" else float(row.staleness_p99) for row in own
            ]
            axis.plot([row.cores for row in own], values, **styles[sync] | {"markersize": 4})
        axis.set_title(title)
        axis.set_yscale("symlog", linthresh=1)
        axis.yaxis.set_major_formatter("{x:g}")
        log2_ticks(axis, sorted({row.cores for row in rows}), "cores, one worker each")
    axes[0].set_ylabel("staleness, pushes")
    legend(figure, axes[0])
    return figure


def _by_sync(rows: Sequence[PredictionRow]) -> list[tuple[str, list[PredictionRow]]]:
    """Each sync with its rows, by cores."""
    return [
        (sync, sorted((row for row in rows if row.sync == sync), key=lambda row: row.cores))
        for sync in dict.fromkeys(row.sync for row in rows)
    ]
