"""Run a study: plain SGD first, then one launch per delay and bound with everything in it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from asyncopt.studies.delayed import page
from asyncopt.studies.delayed.digits import Digits
from asyncopt.studies.delayed.findings import findings
from asyncopt.studies.delayed.plan import Contender, Plan
from asyncopt.studies.delayed.results import SCHEMA, Row, delay_text
from asyncopt.studies.delayed.subject import Subject
from asyncopt.studies.delayed.table import study_sheet
from asyncopt.studies.delayed.teacher import Teacher
from asyncopt.studies.delayed.trainings import Trainings, row_of, train_all
from asyncopt.studies.dense.plan import usable_cores
from asyncopt.studies.errors import require
from asyncopt.studies.progress import Display
from asyncopt.studies.session import Session
from asyncopt.studies.training.conditions import Conditions
from asyncopt.studies.training.meter import Meter

SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in (Teacher(), Digits())}
START = 2.0  # rough seconds that a worker's start costs one core


def run(plan: Plan, out: Path, *, as_json: bool) -> None:
    """Check, measure, write to the folder `out`, print.

    Raises:
        StudyError: a module is missing, or `out` cannot be written to.
    """
    subjects = [SUBJECTS[name] for name in plan.problems]
    for subject in subjects:
        require(subject.needs, f"problem {subject.name}")
    require(("matplotlib",), "the report")
    session = Session(out)
    session.announce(
        f"{len(plan.contenders)} contenders x {plan.repeats} on {', '.join(plan.problems)} with "
        f"{plan.workers} workers under {len(plan.delays) * len(plan.bounds)} conditions",
        expected_seconds(plan),
    )
    rows = study(plan, session.progress)
    chapters = [
        page.Chapter(subject, own, findings(subject, own))
        for subject in subjects
        if (own := [row for row in rows if row.problem == subject.name])
    ]
    found = {chapter.subject.name: chapter.findings for chapter in chapters}
    results = session.document(SCHEMA, plan.as_json(), found, (row.as_json() for row in rows))
    report = page.render(plan, session.machine, chapters, session.about)
    tables = [(c.subject.title, study_sheet(c.subject, c.rows), c.findings) for c in chapters]
    session.deliver(results, report, tables, as_json=as_json)


def expected_seconds(plan: Plan) -> float:
    """Rough length of the whole study."""
    every = [plan.conditions(delay, bound) for delay in plan.delays for bound in plan.bounds]
    return _cost(plan, _serial(plan), 1, Conditions("thread")) + sum(
        _cost(plan, plan.contenders, plan.workers, conditions) for conditions in every
    )


def study(plan: Plan, console: Console) -> list[Row]:
    """Measure everything; progress goes to `console`."""
    display = Display(console, expected_seconds(plan))
    subjects = {name: SUBJECTS[name] for name in plan.problems}

    def trained(
        title: str, contenders: Sequence[Contender], workers: int, conditions: Conditions
    ) -> Trainings:
        meter = Meter(workers, _pushes(plan, contenders))
        with display.section(title, _cost(plan, contenders, workers, conditions), meter):
            return train_all(plan, [*subjects.values()], contenders, workers, conditions, meter)

    serial = trained("plain SGD", _serial(plan), 1, Conditions("thread"))
    rows = [
        row_of(subjects[name], contender, alone, alone, workers=1)
        for (name, contender), alone in serial.items()
    ]
    for delay, bound in itertools.product(plan.delays, plan.bounds):
        title = f"{plan.workers} workers, delay {delay_text(delay)}"
        title += "" if bound is None else f", staleness {bound} at most"
        conditions = plan.conditions(delay, bound)
        for (name, contender), own in trained(
            title, plan.contenders, plan.workers, conditions
        ).items():
            alone = serial[name, contender.serial]
            rows.append(
                row_of(
                    subjects[name],
                    contender,
                    own,
                    alone,
                    workers=plan.workers,
                    delay=delay,
                    bound=bound,
                )
            )
    return rows


def _serial(plan: Plan) -> list[Contender]:
    """Plain SGD with every schedule of the plan."""
    return list(dict.fromkeys(contender.serial for contender in plan.contenders))


def _pushes(plan: Plan, contenders: Sequence[Contender]) -> int:
    """Of one launch."""
    trainings = len(contenders) * plan.repeats
    return trainings * sum(SUBJECTS[name].pushes(plan) for name in plan.problems)


def _cost(
    plan: Plan, contenders: Sequence[Contender], workers: int, conditions: Conditions
) -> float:
    """Rough seconds of one launch: start-up, then computing or sleeping, whatever takes longer."""
    cores = usable_cores()
    each = len(contenders) * plan.repeats
    pushes = {name: each * SUBJECTS[name].pushes(plan) for name in plan.problems}
    work = sum(count * SUBJECTS[name].step for name, count in pushes.items()) / min(workers, cores)
    # Whoever sleeps least takes most of the mini-batches.
    asleep = sum(pushes.values()) / workers * min(conditions.sleeps(workers))
    start = START * workers / cores if conditions.mode == "process" else 0.0
    return 1.0 + start + max(work, asleep)
