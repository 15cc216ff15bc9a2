"""Plots of a comparison, each as SVG text: of training problems, then of contention."""

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
    shade,
)
from asyncopt.report.text import rate_text, size_text, workers_text
from asyncopt.studies.dense.plan import SyncRow
from asyncopt.studies.rows import Curve, Staleness
from asyncopt.studies.training.jobs import UNSHARED

EXACT = 8  # staleness up to here on an even scale; long tails beyond on a logarithmic one


@drawn
def loss_by_workers(rows: Sequence[SyncRow], styles: LineStyles) -> Figure:
    """Training loss against wall time: a panel per worker count, a line per sync."""
    rows = [row for row in rows if row.variant != UNSHARED]
    counts = sorted({row.workers for row in rows})
    figure, axes = panels(len(counts), 4, 3.2)
    for axis, count in zip(axes, counts, strict=True):
        for row in rows:
            if row.workers == count:
                curve = median_curve(row)
                axis.plot(curve.seconds, curve.loss, **styles[row.variant] | {"marker": ""})
        axis.set_title(workers_text(count))
    _loss_axes(axes, 4)
    legend(figure, axes[0])
    return figure


@drawn
def loss_by_sync(rows: Sequence[SyncRow]) -> Figure:
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
def throughput(rows: Sequence[SyncRow], styles: LineStyles, usable_cores: int) -> Figure:
    """Updates per second against workers, with quartiles, and the ceiling of unshared workers."""
    counts = sorted({row.workers for row in rows})
    variants = list(dict.fromkeys(row.variant for row in rows))
    figure, (axis,) = panels(1, 1, 3.7, width=8.0)
    for place, variant in enumerate(variants):
        own = sorted((r for r in rows if r.variant == variant), key=lambda r: r.workers)
        # A little to the side, so that error bars of equal rates stay apart.
        shift = 2 ** ((place - (len(variants) - 1) / 2) * 0.03)
        places = [row.workers * shift for row in own]
        quartile_bars(axis, places, [row.updates_per_second for row in own], styles[variant])
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
    log2_ticks(axis, counts, "workers")
    axis.set_xlim(counts[0] / 2**0.3, counts[-1] * 2**0.3)
    axis.set_ylabel("updates per second")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(value)))
    legend(figure, axis, "outside right upper", columns=1)
    return figure


@drawn
def staleness(rows: Sequence[SyncRow]) -> Figure:
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


def median_curve(row: SyncRow) -> Curve:
    """The loss curve of the repeat whose time is nearest to the median."""
    times, middle = row.seconds.values, row.seconds.median
    return row.curves[min(range(len(times)), key=lambda place: abs(times[place] - middle))]


def _reach(histogram: Staleness) -> float:
    """Upper edge of the bin of the 99.9th percentile."""
    total, seen = sum(histogram.counts), 0
    for count, edge in zip(histogram.counts, histogram.edges[1:], strict=True):
        seen += count
        if seen >= 0.999 * total:
            return edge - 0.5
    return histogram.edges[-1]


def is_dense(row: SyncRow) -> bool:
    """True if a push touches a whole vector, not rows of a table."""
    return row.case.startswith("dense")


@drawn
def dense_rates(rows: Sequence[SyncRow], styles: LineStyles) -> Figure:
    """Rate relative to workers that share nothing, against the vector's size."""
    rows = sorted((row for row in rows if is_dense(row)), key=lambda row: row.case_bytes)
    alone = {
        (r.case, r.workers): r.updates_per_second.median for r in rows if r.variant == UNSHARED
    }
    counts = sorted({row.workers for row in rows})
    sizes = sorted({row.case_bytes for row in rows})
    figure, axes = panels(len(counts), 4, 3.5)
    for axis, count in zip(axes, counts, strict=True):
        for variant in dict.fromkeys(row.variant for row in rows):
            own = [row for row in rows if (row.variant, row.workers) == (variant, count)]
            shares = [row.updates_per_second.median / alone[row.case, count] for row in own]
            if variant != UNSHARED:
                axis.plot([row.case_bytes for row in own], shares, **styles[variant])
        axis.axhline(1.0, color=GREY, linewidth=1.2, linestyle=DASHED)
        axis.set_title(workers_text(count))
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [size_text(size) for size in sizes], rotation=35, ha="right")
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("size of the shared vector")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes[0].set_ylim(bottom=0)  # of all panels, now that each has drawn
    axes[0].set_ylabel("updates/s against unshared")
    legend(figure, axes[0])
    return figure


@drawn
def sparse_rates(rows: Sequence[SyncRow]) -> Figure:
    """Pushes of rows per second: a panel per way of drawing rows, bars by sync and workers."""
    rows = [row for row in rows if not is_dense(row)]
    figure = _bars(rows, {row: row.updates_per_second.median for row in rows}, by="case")
    axis = figure.axes[0]
    axis.set_yscale("log")
    plain_log(axis.yaxis, rate_text)
    axis.set_ylabel("pushes per second (log scale)")
    return figure


@drawn
def lost_updates(rows: Sequence[SyncRow]) -> Figure:
    """Share of element updates lost: a panel per sync that lost some, bars by case and workers."""
    racy = {row.variant for row in rows if row.lost_updates}
    figure = _bars(
        [row for row in rows if row.variant in racy],
        {row: row.lost_share or 0.0 for row in rows},
        by="variant",
    )
    axis = figure.axes[0]
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axis.set_ylabel("element updates lost")
    return figure


def _bars(rows: Sequence[SyncRow], heights: dict[SyncRow, float], by: str) -> Figure:
    """A panel per value of the field `by`; bars by the other of case and variant, and workers."""
    along = "variant" if by == "case" else "case"
    titles = list(dict.fromkeys(getattr(row, by) for row in rows))
    ticks = list(dict.fromkeys(getattr(row, along) for row in rows))
    counts = sorted({row.workers for row in rows})
    figure, axes = panels(len(titles), 2, 3.1, width=11.5 if len(titles) > 1 else 8.0)
    width = 0.8 / len(counts)
    for axis, title in zip(axes, titles, strict=True):
        for turn, count in enumerate(counts):
            own = [row for row in rows if getattr(row, by) == title and row.workers == count]
            axis.bar(
                [
                    ticks.index(getattr(row, along)) + (turn - (len(counts) - 1) / 2) * width
                    for row in own
                ],
                [heights[row] for row in own],
                width=width * 0.92,
                color=shade(count, counts),
                label=workers_text(count),
            )
        axis.set_title(title)
        axis.set_xticks(range(len(ticks)), ticks, rotation=35, ha="right")
        axis.grid(axis="x", visible=False)
    legend(figure, axes[0])
    return figure


def pictures(rows: Sequence[SyncRow], usable_cores: int, variants: Sequence[str]) -> list[Picture]:
    """All plots of one problem."""
    styles = LineStyles(variants, reference=UNSHARED)
    draw = _contention_pictures if rows[0].case else _training_pictures
    return draw(rows[0].problem, rows, usable_cores, styles)


def _training_pictures(
    name: str, rows: Sequence[SyncRow], usable_cores: int, styles: LineStyles
) -> list[Picture]:
    return [
        Picture(
            "Loss against wall time",
            loss_by_workers(f"{name}-loss", rows, styles),
            "Training loss, averaged over slices of mini-batches, of the repeat with the median "
            "time. Left is faster, low is better; lines on top of each other mean that the sync "
            "does not matter here.",
        ),
        Picture(
            "What more workers buy under each sync",
            loss_by_sync(f"{name}-scaling", rows),
            "The same curves, one panel per sync. A darker line left of a lighter one is a "
            "speed-up; one that ends higher paid for it in loss.",
        ),
        Picture(
            "Throughput against workers",
            throughput(f"{name}-rate", rows, styles, usable_cores),
            "Pushes per second of all workers together, with the quartiles of the repeats. The "
            "dashed grey line is the machine's ceiling: workers that share nothing.",
        ),
        Picture(
            "Staleness",
            staleness(f"{name}-stale", rows),
            "How many pushes by other workers landed between a worker's reading of the parameters "
            "and its own push. A single worker always has zero. Long tails come from workers that "
            "the system had stopped; with them, the scale is logarithmic beyond 8.",
        ),
    ]


def _contention_pictures(
    name: str, rows: Sequence[SyncRow], usable_cores: int, styles: LineStyles
) -> list[Picture]:
    pictures = [
        Picture(
            "Dense vectors: what sharing costs",
            dense_rates(f"{name}-dense", rows, styles),
            "Updates per second, relative to as many workers that share nothing (the dashed line), "
            "as the vector grows from one cache line to beyond the last-level cache. Below the "
            "line, sharing costs. The smallest vectors spend most of a push in Python, which hides "
            "some of that cost.",
        )
    ]
    if not all(is_dense(row) for row in rows):
        pictures.append(
            Picture(
                "Overlapping sparse rows",
                sparse_rates(f"{name}-rows", rows),
                "Skewed rows collide often, uniform ones almost never. seqlock and leashed copy "
                "the whole table for every push: they are made for dense updates.",
            )
        )
    if any(row.lost_updates for row in rows):
        pictures.append(
            Picture(
                "Lost updates",
                lost_updates(f"{name}-lost", rows),
                "Element updates that were pushed and are missing from the final values: exact, "
                "because every increment is a power of two. Syncs that are not shown lost none.",
            )
        )
    return pictures
