"""Plots of a run against time, each as SVG text."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from asyncopt.report.style import GREY, INK, PALETTE, drawn, legend, panels, plain_log
from asyncopt.report.text import rate_text
from asyncopt.run.telemetry.history import History
from asyncopt.run.telemetry.samples import Floats
from asyncopt.run.telemetry.tables import mean_known

NAMED = len(PALETTE)  # with more workers than colours, all are drawn in the same style
COLUMNS = 240  # of the heat map: more than a page can resolve


@drawn
def loss(history: History) -> Figure:
    """The last loss of each worker, and their mean."""
    figure, (axis,) = panels(1, 1, 3.0)
    _by_worker(axis, history.seconds, history.loss)
    if history.workers > 1:
        axis.plot(
            history.seconds, [mean_known(row) for row in history.loss], color=INK, label="mean"
        )
    if np.nanmin(history.loss, initial=math.inf) > 0:
        axis.set_yscale("log")
        plain_log(axis.yaxis)
    return _finished(figure, axis, history, "loss")


@drawn
def throughput(history: History) -> Figure:
    """Updates per second of each worker and of all."""
    figure, (axis,) = panels(1, 1, 3.0)
    rates = history.updates_per_second
    _by_worker(axis, history.seconds, rates)
    if history.workers > 1:
        axis.plot(history.seconds, rates.sum(axis=1), color=INK, label="all")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: rate_text(value)))
    _mark_restarts(axis, history)
    return _finished(figure, axis, history, "updates per second")


@drawn
def staleness(history: History) -> Figure:
    """Median and 99th percentile of the staleness of all pushes."""
    figure, (axis,) = panels(1, 1, 2.6)
    each = [history.staleness(i) for i in range(len(history.seconds))]
    median, most = ([histogram.percentile(q) for histogram in each] for q in (50, 99))
    axis.fill_between(history.seconds, median, most, color=PALETTE[0], alpha=0.2, linewidth=0)
    axis.plot(history.seconds, most, color=PALETTE[0], linewidth=1, label="99th percentile")
    axis.plot(history.seconds, median, color=INK, label="median")
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    return _finished(figure, axis, history, "staleness, pushes")


@drawn
def cores(history: History) -> Figure:
    """Use of each core, as a heat map of cores against time."""
    rows = len(history.cores)
    figure, (axis,) = panels(1, 1, min(6.0, 1.2 + 0.28 * rows))
    image = axis.imshow(
        core_grid(history, COLUMNS),
        aspect="auto",
        origin="lower",
        interpolation="nearest",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(0.0, float(history.seconds[-1]), -0.5, rows - 0.5),
    )
    axis.grid(visible=False)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda place, _: str(dict(enumerate(history.cores)).get(int(place), "")))
    )
    axis.set_xlabel("seconds since the start")
    axis.set_ylabel("core")
    figure.colorbar(image, ax=axis, format=PercentFormatter(xmax=1), pad=0.01, label="busy")
    return figure


@drawn
def processors(history: History) -> Figure:
    """CPU use of each worker."""
    figure, (axis,) = panels(1, 1, 2.6)
    _by_worker(axis, history.seconds, history.cpu_use)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    return _finished(figure, axis, history, "CPU use, of one core")


def core_grid(history: History, columns: int) -> Floats:
    """Use of each core, 0 to 1, shape (cores, columns), in columns of equal time."""
    times = np.array([sample.seconds for sample in history.samples])
    busy = np.array([sample.core_seconds for sample in history.samples])
    known = ~np.isnan(busy).any(axis=1)
    at = np.linspace(0.0, times[-1], min(columns, len(times)) + 1)
    grid = np.full((busy.shape[1], len(at) - 1), np.nan)
    if known.sum() > 1:
        for core, seconds in enumerate(busy[known].T):
            grid[core] = np.diff(np.interp(at, times[known], seconds)) / np.diff(at)
        grid[:, at[:-1] < times[known][0]] = np.nan
    return grid


def _by_worker(axis: Axes, seconds: Floats, values: Floats) -> None:
    workers = values.shape[1]
    for rank in range(workers):
        named = workers <= NAMED
        axis.plot(
            seconds,
            values[:, rank],
            color=PALETTE[rank] if named else GREY,
            linewidth=1.2 if named else 0.6,
            alpha=0.8 if named else 0.5,
            label=f"worker {rank}" if named else "workers" if rank == 0 else None,
        )


def _mark_restarts(axis: Axes, history: History) -> None:
    total = history.restarts.sum(axis=1)
    for place in np.flatnonzero(np.diff(total, prepend=0)):
        axis.axvline(history.seconds[place], color=PALETTE[1], linewidth=1, linestyle=(0, (2, 2)))


def _finished(figure: Figure, axis: Axes, history: History, what: str) -> Figure:
    axis.set_xlim(0.0, float(history.seconds[-1]))
    axis.set_xlabel("seconds since the start")
    axis.set_ylabel(what)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        legend(figure, axis, "outside right upper", columns=1)
    return figure
