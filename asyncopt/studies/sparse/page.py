"""The HTML report of a comparison on sparse problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from asyncopt.report.page import Picture, chapter_html, page_html
from asyncopt.studies.head import head_html
from asyncopt.studies.machine import Machine
from asyncopt.studies.pens import Pens
from asyncopt.studies.sparse import plots
from asyncopt.studies.sparse.plan import Plan
from asyncopt.studies.sparse.results import Row
from asyncopt.studies.sparse.subject import Subject
from asyncopt.studies.sparse.table import sheet

LEAD = (
    "The problems of the Hogwild! paper: threads that share one sparse model, under each way of "
    "sharing it, beside the paper's rival (round-robin) and other libraries."
)


class Chapter(NamedTuple):
    """A problem, its rows, and what they say in sentences."""

    subject: Subject
    rows: list[Row]
    findings: list[str]


def render(plan: Plan, machine: Machine, chapters: Sequence[Chapter], about: dict[str, str]) -> str:
    """The whole page. `about` goes under the title: command, versions, date."""
    sections = [_section(chapter, machine.usable_cores) for chapter in chapters]
    head = head_html(LEAD, machine, about)
    return page_html("asyncopt compare", [head, _reading(plan, chapters), *sections])


def _reading(plan: Plan, chapters: Sequence[Chapter]) -> str:
    """How the numbers were made."""
    meanings = {
        "round-robin": "threads compute at once and update in turns (Langford et al., NIPS 2009)",
        "replicated": "each keeps copies of columns, the more frequent ones merged more often",
        "ordered": "work is split so that no two threads ever meet, with the bits of one thread",
        "unshared": "each has a model of its own, averaged after a pass: the floor of all others",
    }
    measured = {row.contender for chapter in chapters for row in chapter.rows}
    told = "; ".join(
        f"under <code>{sync}</code> {meaning}"
        for sync, meaning in meanings.items()
        if sync in measured
    )
    return (
        "<p>A time is that of a whole call of <code>fit</code> on data in the form that the "
        f"contender takes, {plan.repeats} time{'s' if plan.repeats > 1 else ''} for each, all of "
        "them in turns; numbers are medians. All make the same number of passes over the same "
        "examples; other libraries take their default steps, for a ranking with the same learning "
        "rate. Of the ways to share a model, <code>hogwild</code> is the paper's"
        f"{'; ' if told else ''}{told}.</p>"
    )


def _section(chapter: Chapter, cores: int) -> str:
    subject, rows, found = chapter
    return chapter_html(
        subject.name,
        subject.title,
        subject.about,
        found,
        sheet(subject, rows),
        _pictures(subject, rows, cores),
    )


def _pictures(subject: Subject, rows: Sequence[Row], cores: int) -> Iterator[Picture]:
    pens = Pens(list(dict.fromkeys(row.contender for row in rows)))
    main = subject.measures[-1]
    if len({row.workers for row in rows if row.speedup is not None}) > 1:
        yield Picture(
            "Speed-up against workers",
            plots.speedups(f"{subject.name}-speedups", rows, cores, pens),
            "Against one worker of the same sync, with the quartiles of the repeats. The dashed "
            f"line is n times as fast with n workers, up to the {cores} usable cores.",
        )
    yield Picture(
        f"{main.heading.capitalize()} against time",
        plots.error_against_time(f"{subject.name}-error", rows, main, pens),
        f"The {main.meaning} after the last pass, against the time of the call: a point for each "
        f"number of workers. Left and {'high' if main.rising else 'low'} is better.",
    )
