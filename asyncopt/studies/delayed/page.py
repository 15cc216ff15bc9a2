"""The HTML report of a study."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from asyncopt.report.page import Picture, chapter_html, page_html
from asyncopt.studies.delayed import plots
from asyncopt.studies.delayed.plan import SCHEDULES, Plan
from asyncopt.studies.delayed.results import Row
from asyncopt.studies.delayed.subject import GAP, Subject
from asyncopt.studies.delayed.table import study_sheet
from asyncopt.studies.head import head_html
from asyncopt.studies.machine import Machine
from asyncopt.studies.pens import Pens

LEAD = (
    "What stale gradients do to training: workers that share one set of parameters, slowed down on "
    "purpose, beside plain SGD."
)


class Chapter(NamedTuple):
    """A problem, its rows, and what they say in sentences."""

    subject: Subject
    rows: list[Row]
    findings: list[str]


def render(plan: Plan, machine: Machine, chapters: Sequence[Chapter], about: dict[str, str]) -> str:
    """The whole page. `about` goes under the title: command, versions, date."""
    pens = Pens(plan.schedules)
    return page_html(
        "asyncopt staleness",
        [
            head_html(LEAD, machine, about),
            _reading(plan),
            *(_section(plan, chapter, pens) for chapter in chapters),
        ],
    )


def _reading(plan: Plan) -> str:
    """How the numbers were made."""
    schedules = "; ".join(
        f"<code>{name}</code>: {html.escape(SCHEDULES[name])}" for name in plan.schedules
    )
    bounded = (
        "A bound of staleness made a worker wait whose push would have come later. "
        if any(bound is not None for bound in plan.bounds)
        else ""
    )
    return (
        f"<p>{plan.workers} {plan.mode} workers trained by SGD and slept between computing a "
        "gradient and pushing it. The delay is in seconds: one number for all workers, or one for "
        f"each. {bounded}All contenders of a delay ran interleaved in one launch "
        f"({plan.repeats} repeat{'s' if plan.repeats > 1 else ''}, one thread per worker), from "
        "the same weights, over the same mini-batches, whoever comes next taking the next one; "
        "numbers are medians. <code>plain SGD</code> is one worker without delay, and "
        "<code>vs plain</code> is in pairs: the same weights, mini-batches and schedule. Schedules "
        f"follow the number of pushes of all workers. {schedules}.</p>"
    )


def _section(plan: Plan, chapter: Chapter, pens: Pens) -> str:
    subject, rows, found = chapter
    return chapter_html(
        subject.name,
        subject.title,
        subject.about,
        found,
        study_sheet(subject, rows),
        _pictures(plan, subject, rows, pens),
    )


def _pictures(plan: Plan, subject: Subject, rows: Sequence[Row], pens: Pens) -> Iterator[Picture]:
    name, main = subject.name, subject.main
    yield Picture(
        f"{main.heading.capitalize()} against staleness",
        plots.against_staleness(f"{name}-{main.name}", rows, main, pens, log=True),
        f"{main.heading.capitalize()} ({main.meaning}) after training, with the quartiles of the "
        "repeats: plain SGD with the same schedule on the left, then a point per delay.",
    )
    yield Picture(
        "Gap against staleness",
        plots.against_staleness(f"{name}-gap", rows, GAP, pens, log=False),
        f"The {GAP.meaning}: lower is better generalization, if training came as far.",
    )
    yield Picture(
        f"Loss over the updates under {plan.syncs[0]}",
        plots.losses(f"{name}-losses", rows, plan.syncs[0], pens),
        "Training loss, averaged over equal parts of the updates and over the repeats. The dashed "
        "line is plain SGD with the first schedule.",
    )
