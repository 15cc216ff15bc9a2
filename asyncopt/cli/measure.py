"""Run a plan: every problem with every worker count, one launch each."""

from __future__ import annotations

from rich.console import Console

from asyncopt.cli.failures import require
from asyncopt.cli.plan import Plan
from asyncopt.cli.problems import PROBLEMS
from asyncopt.cli.problems.base import Meter
from asyncopt.cli.progress import Display
from asyncopt.cli.results import Row, with_speedups


def check_extras(plan: Plan) -> None:
    """Raise `CommandError` where a module is missing, before minutes are spent."""
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
