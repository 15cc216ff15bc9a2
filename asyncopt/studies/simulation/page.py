"""The HTML report of a simulation."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from asyncopt.report.page import Picture, figure_html, page_html
from asyncopt.report.table import Line, Sheet, sheet_html
from asyncopt.simulate import Costs, LineCost
from asyncopt.studies.head import head_html
from asyncopt.studies.machine import Machine
from asyncopt.studies.pens import Pens
from asyncopt.studies.simulation import plots
from asyncopt.studies.simulation.plan import Plan
from asyncopt.studies.simulation.results import Row
from asyncopt.studies.simulation.table import full_sheet, short_sheet

LEAD = (
    "What each way of writing to shared memory would do on more cores than this machine has: a "
    "simulation, fed with costs measured here and held against what can be measured here."
)
BOUNDS = (
    "A simulation knows what it was told. Here every worker has a core of its own and is never "
    "preempted; every core is as far from every other as the two that were measured, so a second "
    "socket or a slower hop is not in it; and lines that travel between different pairs of cores "
    "never get in each other's way, nor does memory run out of bandwidth. Where many cores move "
    "many lines at once, read the prediction as an upper bound. The computing between two pushes "
    "is private: it neither reads shared parameters nor competes for anything."
)


class Chapter(NamedTuple):
    """A workload, its rows, and what they say in sentences."""

    workload: str
    rows: list[Row]
    findings: list[str]


def render(
    plan: Plan,
    costs: Mapping[str, Costs],
    machine: Machine,
    chapters: Sequence[Chapter],
    about: dict[str, str],
) -> str:
    """The whole page. `about` goes under the title: command, versions, date."""
    pens = Pens(plan.syncs)
    return page_html(
        "asyncopt simulate",
        [
            head_html(LEAD, machine, about),
            f"<p>{html.escape(BOUNDS)}</p>",
            f"<h3>What it was told</h3><p>{html.escape(_origin(plan))}</p>",
            sheet_html(costs_sheet(costs)),
            *(_section(number, chapter, pens) for number, chapter in enumerate(chapters)),
        ],
    )


def _origin(plan: Plan) -> str:
    """Where the costs are from."""
    if plan.costs is not None:
        return f"Costs from {plan.costs}, in nanoseconds."
    return (
        "Costs in nanoseconds, measured between two cores at the start of the command; per cache "
        "line where there are two: had by the same core last, or written by the other."
    )


def costs_sheet(costs: Mapping[str, Costs]) -> Sheet:
    """A line per cost, a column per case, in nanoseconds."""
    every = [each.as_json() for each in costs.values()]
    lines = [
        Line([name, *(_nanoseconds(each[name]) for each in every)], aside=False, last=False)
        for name in every[0]
    ]
    return Sheet([("cost", ""), *((name, "") for name in costs)], lines, left=1)


def _nanoseconds(cost: float | dict[str, float]) -> str:
    if isinstance(cost, dict):
        own, remote = LineCost(**cost)
        return f"{own * 1e9:.3g} / {remote * 1e9:.3g}"
    return f"{cost * 1e9:.4g}"


def _section(number: int, chapter: Chapter, pens: Pens) -> str:
    workload, rows, sentences = chapter
    listed = "".join(f"<li>{html.escape(text)}</li>" for text in sentences)
    pictures = [
        Picture(
            "Throughput against cores",
            plots.rates(f"rates-{number}", rows, pens),
            "Lines are predicted, crosses measured on this machine.",
        )
    ]
    if any(row.cores > 1 for row in rows):
        pictures.append(
            Picture(
                "Staleness against cores",
                plots.staleness(f"staleness-{number}", rows, pens),
                "Pushes by others between a worker's pull and its push, predicted. Workers that "
                "take turns all have a staleness of one less than the cores; a 99th percentile "
                "far above the mean says that a lock went round unfairly.",
            )
        )
    return "\n".join(
        [
            f"<h2>{html.escape(workload)}</h2>",
            f'<ul class="findings">{listed}</ul>',
            sheet_html(short_sheet(rows)),
            *(figure_html(picture) for picture in pictures),
            f"<details><summary>All {len(rows)} predictions</summary>",
            f"{sheet_html(full_sheet(rows))}</details>",
        ]
    )
