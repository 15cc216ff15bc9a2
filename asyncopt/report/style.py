"""Style of all plots: colours, sizes, axes and legends; figures as SVG text."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, Protocol

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

# Okabe and Ito's colours, distinct with any colour vision; their yellow is too
# light on white. Markers differ as well, for print in grey.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4F9A", "#5B5B1B")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#6b7280"
INK = "#1f2937"
BLUES = ("#8cc0e4", "#2f7fbf", "#0b3c78", "#000000", "#4b2a7a", "#8a5aa8")  # more workers: darker
DASHED = (0, (4, 3))  # what others are compared with
WIDE = 11.5  # inches: the page's full width at 96 pixels per inch
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",  # text that can be searched, copied and read aloud
    "svg.hashsalt": "asyncopt",
}

Given = ParamSpec("Given")


def drawn(
    draw: Callable[Given, Figure],
) -> Callable[Concatenate[str, Given], str]:
    """Make a function that returns a figure take a name first and return SVG text.

    The style holds while it draws and is gone afterwards: matplotlib's settings stay the user's.
    """

    def as_svg(name: str, /, *args: Given.args, **kwargs: Given.kwargs) -> str:
        with matplotlib.rc_context(STYLE):
            return svg(draw(*args, **kwargs), name)

    functools.update_wrapper(as_svg, draw)
    return as_svg


def svg(figure: Figure, name: str) -> str:
    """The figure as an ``<svg>`` element; its ids get the prefix `name`, unique on the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    # A page gives it its caption for screen readers (`report.page.Picture`).
    label = f'<svg role="img" data-plot="{name}" aria-label="plot {name}" '
    return text.replace("<svg ", label, 1)


def panels(
    count: int, columns: int, height: float, width: float = WIDE
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels that share their axes, `columns` in a line; inches."""
    columns = max(1, min(count, columns))
    lines = max(1, -(-count // columns))
    figure = Figure(figsize=(width, lines * height + 0.35), layout="constrained")
    grid: NDArray[Any] = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    axes: list[Axes] = list(grid.flat)
    for spare in axes[count:]:
        spare.set_axis_off()  # room for the legend
    return figure, axes[:count]


def plain_log(axis: Axis, text: Callable[[float], str] = "{:g}".format) -> None:
    """Label a logarithmic axis 1, 2, 5, 10 ... in plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def legend(
    figure: Figure, axis: Axes, place: str = "outside lower center", columns: int = 8
) -> None:
    """Draw one legend for all panels: in a spare panel, or at `place`."""
    handles, labels = axis.get_legend_handles_labels()
    spare = [each for each in figure.axes if not each.axison]
    if spare:
        spare[0].legend(handles, labels, loc="center")
        return
    options: dict[str, Any] = {"loc": place, "ncols": max(1, min(columns, len(labels)))}
    figure.legend(handles, labels, **options)


class LineStyles:
    """Colour, marker and dash of each contender, the same in every plot of a report.

    Args:
        names: of the contenders, in order. ``NAME+audit`` has the colour of ``NAME``, dotted.
        reference: the name that is drawn dashed and grey.
    """

    def __init__(self, names: Sequence[str], reference: str = "") -> None:
        self._names = list(dict.fromkeys(name.removesuffix("+audit") for name in names))
        self._reference = reference

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Keyword arguments for matplotlib's line functions."""
        if name == self._reference:
            return {"color": GREY, "linestyle": DASHED, "label": name}
        place = self._names.index(name.removesuffix("+audit"))
        audited = name.endswith("+audit")
        colour = PALETTE[place % len(PALETTE)]
        return {
            "color": colour,
            # With more contenders than colours, those of one colour differ in their markers.
            "marker": MARKERS[(place + place // len(PALETTE)) % len(MARKERS)],
            "markersize": 5,
            "markerfacecolor": "white" if audited else colour,
            "linestyle": (0, (1, 1.5)) if audited else "-",
            "label": name,
        }


def shade(count: int, counts: Sequence[int]) -> str:
    """The colour of a worker count among `counts`."""
    return BLUES[min(counts.index(count), len(BLUES) - 1)]


def log2_ticks(axis: Axes, counts: Sequence[int], label: str) -> None:
    """A horizontal axis of workers or cores: logarithmic, one tick per count."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label)


class Quartiles(Protocol):
    """The median of repeats and the quartiles beside it."""

    @property
    def q1(self) -> float: ...  # noqa: D102

    @property
    def median(self) -> float: ...  # noqa: D102

    @property
    def q3(self) -> float: ...  # noqa: D102


def quartile_bars(
    axis: Axes, places: Sequence[float], spreads: Sequence[Quartiles], style: dict[str, Any]
) -> None:
    """A line through the medians, each with a bar from the lower quartile to the upper one."""
    axis.errorbar(
        places,
        [spread.median for spread in spreads],
        yerr=[
            [spread.median - spread.q1 for spread in spreads],
            [spread.q3 - spread.median for spread in spreads],
        ],
        capsize=2.5,
        elinewidth=1,
        **style,
    )
