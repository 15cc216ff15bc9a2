"""Plots of a cross-validation."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from asyncopt.report.page import Picture, render
from asyncopt.report.style import GREY, PALETTE, STYLE, WIDE, svg
from asyncopt.report.table import Table
from asyncopt.tasks.cpu import CpuUse
from asyncopt.tasks.training import Fold

__all__ = ["Drawn", "page", "save"]

CAPTION = (
    "Above: training loss (dotted) and scores of the examples held out, by epoch, a colour per "
    "fold. Below: folds over time, by worker, and the use of each core by all processes of the "
    "machine."
)


class Drawn(NamedTuple):
    """Attributes of a `CrossValidation` that the plots show."""

    folds: Sequence[Fold]
    workers: int
    seconds: float
    cpu: CpuUse


def save(drawn: Drawn, path: str | os.PathLike[str]) -> None:
    """Write the plots to a file in the format that its suffix names."""
    with matplotlib.rc_context(STYLE):
        draw(drawn).savefig(path)


def page(drawn: Drawn, facts: Mapping[str, str], table: Table) -> str:
    """Facts, table and plots as a page of HTML."""
    with matplotlib.rc_context(STYLE):
        drawing = svg(draw(drawn), "folds")
    picture = Picture("Folds and cores", drawing, CAPTION)
    return render(
        "folds.html",
        "asyncopt.tasks",
        title="Cross-validation",
        measured=facts,
        folds=table,
        picture=picture,
    )


def draw(result: Drawn) -> Figure:
    """Scores by epoch; folds and cores by time."""
    names = list(result.folds[0].scores)
    figure = Figure(figsize=(WIDE, 6.6), layout=ConstrainedLayoutEngine(h_pad=0.1))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 3.6)).flat
    for axis, name in zip(above.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        _score(axis, result, name)
    workers, cores = below.subplots(2, 1, sharex=True)
    _folds(workers, result)
    _cores(cores, result)
    return figure


def _score(axis: Axes, result: Drawn, name: str) -> None:
    for fold in result.folds:
        colour = PALETTE[fold.number % len(PALETTE)]
        scored = [(epoch.number, epoch.scores[name]) for epoch in fold.epochs if epoch.scores]
        axis.plot(*zip(*scored, strict=True), color=colour, label=f"fold {fold.number}")
        axis.plot(fold.best, fold.scores[name], "o", color=colour)
        if name == "loss":
            losses = [epoch.train_loss for epoch in fold.epochs]
            axis.plot(range(1, len(losses) + 1), losses, ":", color=colour, linewidth=1.2)
    axis.set_title(name)
    axis.set_xlabel("epoch")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if name == "loss":
        axis.legend(fontsize=8)


def _folds(axis: Axes, result: Drawn) -> None:
    """A bar per fold, in the row of its worker."""
    for fold in result.folds:
        if math.isnan(fold.begin):
            continue
        colour = PALETTE[fold.number % len(PALETTE)]
        axis.barh(fold.worker, fold.seconds, left=fold.begin, height=0.7, color=colour, alpha=0.85)
        middle = fold.begin + fold.seconds / 2
        axis.text(middle, fold.worker, str(fold.number), ha="center", va="center", color="white")
    axis.set_yticks(range(result.workers))
    axis.set_ylim(result.workers - 0.4, -0.6)
    axis.set_ylabel("worker")
    axis.set_title("folds")


def _cores(axis: Axes, result: Drawn) -> None:
    """A line per core, or the mean of all if there are many."""
    times, busy = result.cpu.times, result.cpu.busy
    few = busy.shape[1] <= len(PALETTE)
    lines = busy.T if few else busy.mean(axis=1, keepdims=True).T
    for place, line in enumerate(lines):
        name = f"core {result.cpu.cores[place]}" if few else f"mean of {busy.shape[1]} cores"
        axis.plot(times, np.clip(line, 0, 1), color=PALETTE[place], linewidth=1.2, label=name)
    if not busy.size:
        axis.text(0.5, 0.5, "nothing was measured", transform=axis.transAxes, color=GREY)
    axis.set_ylim(0, 1.05)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.set_ylabel("busy")
    axis.set_title("cores")
    axis.set_xlabel("seconds since the call")
    axis.set_xlim(0, result.seconds)
    if busy.size:
        axis.legend(fontsize=8, loc="lower right")
