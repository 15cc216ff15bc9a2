"""Plots of a training problem: loss against time, throughput against workers, staleness."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    PercentFormatter,
)

from asyncopt.report.style import GREY, drawn, legend, panels, plain_log
from asyncopt.report.text import rate_text
from asyncopt.studies.dense.plan import UNSHARED
from asyncopt.studies.pens import Pens, quartile_bars, shade, workers_text
from asyncopt.studies.results import Curve, Row, Staleness

EXACT = 8  # staleness up to here on an even scale; long tails beyond on a logarithmic one


@drawn
def loss_by_workers(rows: Sequence[Row], pens: Pens) -> Figure:
    """Training loss against wall time: a panel per worker count, a line per sync."""
    rows = [row for row in rows if row.variant != UNSHARED]
    counts = sorted({row.workers for row in rows})
    figure, axes = panels(len(counts), 4, 3.2)
    for axis, count in zip(axes, counts, strict=True):
        for row in rows:
            if row.workers == count:
                curve = median_curve(row)
                axis.plot(curve.seconds, curve.loss, **pens.pen(row.variant) | {"marker": ""})
        axis.set_title(workers_text(count))
    _loss_axes(axes, 4)
    legend(figure, axes[0])
    return figure


@drawn
def loss_by_sync(rows: Sequence[Row]) -> Figure:
    """Training loss against wall time: a panel per sync, a line per worker count."""
    rows = [row for row in rows if row.variant != UNSHARED]
    counts = sorted({row.workers for row in rows})
    variants = list(dict.fromkeys(row.variant for row in rows))
    figure, axes = panels(len(variants), 4, 2.3)
    for axis, variant in zip(axes, variants, strict=True):
        for row in sorted(rows, key=lambda row: row.workers):
            if row.variant == variant:
                curve = median_curve(row)
                colour = shade(row.workers, counts)
                label = workers_text(row.workers)
                axis.plot(curve.seconds, curve.loss, color=colour, label=label)
        axis.set_title(variant)
    _loss_axes(axes, 4)
    legend(figure, axes[0])
    return figure


def _loss_axes(axes: Sequence[Axes], columns: int) -> None:
    for place, axis in enumerate(axes):
        axis.set_yscale("log")
        plain_log(axis.yaxis)
        axis.set_xlim(left=0)
        if place // columns == (len(axes) - 1) // columns:
            axis.set_xlabel("wall time, s")
        if place % columns == 0:
            axis.set_ylabel("training loss (log scale)")


@drawn
def throughput(rows: Sequence[Row], pens: Pens, usable_cores: int) -> Figure:
    """Updates per second against workers, with quartiles, and the ceiling of unshared workers."""
    counts = sorted({row.workers for row in rows})
    variants = list(dict.fromkeys(row.variant for row in rows))
    figure, (axis,) = panels(1, 1, 3.7, width=8.0)
    for place, variant in enumerate(variants):
        own = sorted((r for r in rows if r.variant == variant), key=lambda r: r.workers)
        # A little to the side, so that error bars of equal rates stay apart.
        shift = 2 ** ((place - (len(variants) - 1) / 2) * 0.03)
        places = [row.workers * shift for row in own]
        quartile_bars(axis, places, [row.updates_per_second for row in own], pens.pen(variant))
    if counts[0] <= usable_cores < counts[-1]:
        axis.axvspan(usable_cores * 2**0.3, counts[-1] * 2**0.3, color="#f3f4f6", zorder=0)
        axis.annotate(
            f"more workers than the {usable_cores} cores",
            (counts[-1] * 2**0.25, 0.03),
            xycoords=("data", "axes fraction"),
            ha="right",
            color=GREY,
            fontsize=9,
        )
    axis.set_xscale("log", base=2)
    axis.set_xlim(counts[0] / 2**0.3, counts[-1] * 2**0.3)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("workers")
    axis.set_ylabel("updates per second")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(value)))
    legend(figure, axis, "outside right upper", columns=1)
    return figure


@drawn
def staleness(rows: Sequence[Row]) -> Figure:
    """Share of pushes by staleness: a panel per sync, steps per worker count."""
    counts = sorted({row.workers for row in rows})
    found = [(row, row.staleness) for row in rows if row.staleness]
    variants = list(dict.fromkeys(row.variant for row, _ in found))
    figure, axes = panels(len(variants), 4, 2.1)
    # The last thousandth would squeeze all others.
    reach = max((_reach(histogram) for _, histogram in found), default=1.0)
    for place, (axis, variant) in enumerate(zip(axes, variants, strict=True)):
        for row, histogram in found:
            if row.variant == variant:
                total = sum(histogram.counts)
                axis.stairs(
                    [count / total for count in histogram.counts],
                    # A bar around its number, not to the right of it.
                    [edge - 0.5 for edge in histogram.edges],
                    color=shade(row.workers, counts),
                    linewidth=1.8,
                    fill=row.workers == counts[0],
                    alpha=0.55 if row.workers == counts[0] else 1.0,
                    label=workers_text(row.workers),
                )
        axis.set_title(variant)
        if reach > 2 * EXACT:
            axis.set_xscale("symlog", base=2, linthresh=EXACT)
            ticks = [0, EXACT // 2, *(EXACT * 4**power for power in range(12))]
            axis.set_xticks([tick for tick in ticks if tick <= reach])
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
        else:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_xlim(-0.5, reach)
        axis.set_ylim(0, 1.05)
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        if place // 4 == (len(axes) - 1) // 4:
            axis.set_xlabel("staleness, pushes")
        if place % 4 == 0:
            axis.set_ylabel("share of pushes")
    legend(figure, axes[0])
    return figure


def median_curve(row: Row) -> Curve:
    """The loss curve of the repeat whose time is nearest to the median."""
    times, middle = row.seconds.values, row.seconds.median
    return row.curves[min(range(len(times)), key=lambda place: abs(times[place] - middle))]


def _reach(histogram: Staleness) -> float:
    """Where the bin of the 99.9th percentile ends."""
    total, seen = sum(histogram.counts), 0
    for count, edge in zip(histogram.counts, histogram.edges[1:], strict=True):
        seen += count
        if seen >= 0.999 * total:
            return edge - 0.5
    return histogram.edges[-1]
