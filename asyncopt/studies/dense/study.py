"""Run a plan: every problem with every worker count, one launch each."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from asyncopt.studies.dense import page as report
from asyncopt.studies.dense.findings import findings
from asyncopt.studies.dense.plan import Plan
from asyncopt.studies.dense.problems import PROBLEMS
from asyncopt.studies.dense.table import short_sheet
from asyncopt.studies.errors import require
from asyncopt.studies.progress import Display
from asyncopt.studies.results import SCHEMA, Row, with_speedups
from asyncopt.studies.session import Session
from asyncopt.studies.training.meter import Meter


def run(plan: Plan, out: Path, *, as_json: bool) -> None:
    """Check, measure, write to the folder `out`, print.

    Raises:
        StudyError: a module is missing, `out` cannot be written to, or the build is broken.
    """
    check_extras(plan)
    session = Session(out)
    session.announce(
        f"{len(plan.variants)} contenders x {plan.repeats} on {', '.join(plan.problems)} with "
        f"{', '.join(map(str, plan.workers))} workers",
        expected_seconds(plan),
    )
    rows = compare(plan, session.progress)
    by_problem = {name: [row for row in rows if row.problem == name] for name in plan.problems}
    cores = session.machine.usable_cores
    found = {name: findings(own, cores) for name, own in by_problem.items()}
    results = session.document(SCHEMA, plan.as_json(), found, (row.as_json() for row in rows))
    page = report.render(plan, session.machine, rows, session.about)
    tables = [
        (PROBLEMS[name].title, short_sheet(own), found[name]) for name, own in by_problem.items()
    ]
    session.deliver(results, page, tables, as_json=as_json)


def check_extras(plan: Plan) -> None:
    """Raise `StudyError` where a module is missing, before minutes are spent."""
    for name in plan.problems:
        require(PROBLEMS[name].needs, f"problem {name}")
    require(("matplotlib",), "the report")


def expected_seconds(plan: Plan) -> float:
    """Rough length of the whole comparison."""
    return sum(PROBLEMS[name].cost(plan, count) for name in plan.problems for count in plan.workers)


def compare(plan: Plan, console: Console) -> list[Row]:
    """Measure everything; progress goes to `console`."""
    display = Display(console, expected_seconds(plan))
    rows: list[Row] = []
    for name in plan.problems:
        problem = PROBLEMS[name]
        for workers in plan.workers:
            meter = Meter(workers, problem.steps(plan, workers))
            title = f"{name}, {workers} worker{'s' if workers > 1 else ''}"
            with display.section(title, problem.cost(plan, workers), meter):
                rows += problem.measure(plan, workers, meter)
    return with_speedups(rows)
