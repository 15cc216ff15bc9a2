"""Plots of the contention microbenchmark."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from asyncopt.report.style import GREY, drawn, legend, panels, plain_log
from asyncopt.report.text import rate_text, size_text
from asyncopt.studies.dense.plan import UNSHARED
from asyncopt.studies.pens import Pens, shade, workers_text
from asyncopt.studies.results import Row


def is_dense(row: Row) -> bool:
    """Whether a push touches a whole vector, not rows of a table."""
    return row.case.startswith("dense")


@drawn
def dense(rows: Sequence[Row], pens: Pens) -> Figure:
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
                axis.plot([row.case_bytes for row in own], shares, **pens.pen(variant))
        axis.axhline(1.0, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
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
def sparse(rows: Sequence[Row]) -> Figure:
    """Pushes of rows per second: a panel per way of drawing rows, bars by sync and workers."""
    rows = [row for row in rows if not is_dense(row)]
    figure = _bars(rows, {row: row.updates_per_second.median for row in rows}, by="case")
    axis = figure.axes[0]
    axis.set_yscale("log")
    plain_log(axis.yaxis, rate_text)
    axis.set_ylabel("pushes per second (log scale)")
    return figure


@drawn
def lost(rows: Sequence[Row]) -> Figure:
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


def _bars(rows: Sequence[Row], heights: dict[Row, float], by: str) -> Figure:
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
