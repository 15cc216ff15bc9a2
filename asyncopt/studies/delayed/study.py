"""Trains under injected delays: plain SGD first, then one launch per delay and bound."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import asyncopt
from asyncopt.report.page import Picture
from asyncopt.studies import options
from asyncopt.studies.delayed.findings import findings, recommendation
from asyncopt.studies.delayed.plan import (
    SCALED,
    SCHEDULES,
    Contender,
    Delayed,
    DelayRow,
    delay_text,
    parse_bounds,
    parse_delays,
)
from asyncopt.studies.delayed.problems import DelayedDigits, DelayedProblem, Teacher
from asyncopt.studies.delayed.table import study_table
from asyncopt.studies.delayed.trainings import Trainings, row_of, train_all
from asyncopt.studies.driver import run
from asyncopt.studies.machine import Machine
from asyncopt.studies.progress import Display, Meter
from asyncopt.studies.result import Result
from asyncopt.studies.study import Section, Study
from asyncopt.studies.training.measure import Conditions

PROBLEMS: dict[str, DelayedProblem] = {
    problem.name: problem for problem in (Teacher(), DelayedDigits())
}
START = 2.0  # rough seconds that a worker's start costs one core
WORKERS = 4
SYNCS = ("hogwild", "mutex", "leashed")  # any mix of versions, one at a time, one whole version
QUICK_SYNCS = ("hogwild", "leashed")
QUICK_SCHEDULES = ("constant", "cosine", SCALED)


class StudyStaleness(Study[Delayed, DelayedProblem, DelayRow]):
    """Plain SGD first, then every contender under each delay and bound, in one launch."""

    name = "staleness"
    lead = (
        "What stale gradients do to training: workers that share one set of parameters, slowed "
        "down on purpose, beside plain SGD."
    )

    @property
    def problems(self) -> list[DelayedProblem]:
        """Problems of the plan."""
        return [PROBLEMS[name] for name in self.plan.problems]

    @property
    def summary(self) -> str:
        """Contenders, repeats, problems, workers and conditions."""
        plan = self.plan
        return (
            f"{len(plan.contenders)} contenders x {plan.repeats} on {', '.join(plan.problems)} "
            f"with {plan.workers} workers under {len(plan.launches)} conditions"
        )

    @property
    def seconds(self) -> float:
        """Rough length of all launches."""
        plan = self.plan
        return self._cost(self._serial, 1, Conditions("thread")) + sum(
            self._cost(plan.contenders, plan.workers, plan.conditions(delay, bound))
            for delay, bound in plan.launches
        )

    def measure(self, display: Display) -> list[DelayRow]:
        """One launch of plain SGD, then one per delay and bound."""
        plan = self.plan

        def trained(
            title: str, contenders: Sequence[Contender], workers: int, conditions: Conditions
        ) -> Trainings:
            meter = Meter(workers, sum(self._pushes(contenders).values()))
            with display.section(title, self._cost(contenders, workers, conditions), meter):
                return train_all(plan, self.problems, contenders, workers, conditions, meter)

        serial = trained("plain SGD", self._serial, 1, Conditions("thread"))
        rows = [
            row_of(PROBLEMS[name], contender, alone, alone, workers=1)
            for (name, contender), alone in serial.items()
        ]
        for delay, bound in plan.launches:
            title = f"{plan.workers} workers, delay {delay_text(delay)}"
            title += "" if bound is None else f", staleness {bound} at most"
            conditions = plan.conditions(delay, bound)
            found = trained(title, plan.contenders, plan.workers, conditions)
            rows += [
                row_of(
                    PROBLEMS[name],
                    contender,
                    own,
                    serial[name, contender.serial],
                    workers=plan.workers,
                    delay=delay,
                    bound=bound,
                )
                for (name, contender), own in found.items()
            ]
        return rows

    def section(
        self, problem: DelayedProblem, rows: Sequence[DelayRow], machine: Machine
    ) -> Section[DelayRow]:
        """Table and findings of one problem."""
        found, advice = findings(problem, rows), recommendation(problem, rows)
        return Section(problem, rows, found, study_table(problem, rows), recommendation=advice)

    def pictures(
        self, problem: DelayedProblem, rows: Sequence[DelayRow], machine: Machine
    ) -> Iterable[Picture]:
        """Plots of one problem."""
        from asyncopt.studies.delayed import plots

        return plots.pictures(self.plan, problem, rows)

    @property
    def _serial(self) -> list[Contender]:
        """Plain SGD with every schedule of the plan."""
        return list(dict.fromkeys(contender.serial for contender in self.plan.contenders))

    def _pushes(self, contenders: Sequence[Contender]) -> dict[DelayedProblem, int]:
        """Pushes of one launch, by problem."""
        trainings = len(contenders) * self.plan.repeats
        return {problem: trainings * problem.pushes(self.plan) for problem in self.problems}

    def _cost(self, contenders: Sequence[Contender], workers: int, conditions: Conditions) -> float:
        """Rough seconds of one launch: start-up, then the longer of computing and sleeping."""
        cores = options.usable_cores()
        pushes = self._pushes(contenders)
        work = sum(count * problem.step for problem, count in pushes.items())
        # The worker that sleeps least takes most of the mini-batches.
        asleep = sum(pushes.values()) / workers * min(conditions.sleeps(workers))
        start = START * workers / cores if conditions.mode == "process" else 0.0
        return 1.0 + start + max(work / min(workers, cores), asleep)


def staleness(
    problems: str | Iterable[str] | None = None,
    delays: str | float | Iterable[str | float] | None = None,
    syncs: str | Iterable[str] | None = None,
    *,
    max_staleness: int | str | Iterable[int | str | None] | None = None,
    schedules: str | Iterable[str] | None = None,
    workers: int = WORKERS,
    repeats: int = options.REPEATS,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    mode: str = "process",
    quick: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Result[DelayRow]:
    """Train under injected delays and show what stale gradients do, beside plain serial SGD.

    Args:
        problems: names (``teacher``, ``digits``); None: all.
        delays: sleeps of workers before a push, each as in :func:`compare`; None: none, 2 ms each,
            and 20 ms for the last worker alone.
        syncs: names, as in ``sync=``; None: hogwild, mutex and leashed.
        max_staleness: bounds of staleness in turns of other workers, or ``"none"``; None: no bound.
        schedules: of the learning rate: ``constant``, ``cosine``, ``restarts``, or ``staleness``
            (a constant rate, divided by 1 + the staleness of each push); None: all.
        workers: workers that train at once.
        repeats: runs of each.
        epochs: passes over the data; None: by problem.
        lr: learning rate; None: by problem.
        seed: of data, weights and order.
        mode: ``"process"`` or ``"thread"``.
        quick: whether to take fewer syncs, schedules and epochs: under a minute.
        out: folder for results.json and report.html; None: nothing is written.
        progress: whether to show progress on stderr.

    Returns:
        The result; it prints as its tables.

    Raises:
        OptionError: an option has no meaning; before anything is measured.
        StudyError: a module is missing, or `out` cannot be written to.
        WorkerError, RunTimeout: as ``launch``.
    """
    options.whole("workers", workers, 1, options.MOST_WORKERS)
    plan = Delayed(
        problems=options.picked("problems", problems, tuple(PROBLEMS)),
        delays=options.checked("delays", lambda: parse_delays(delays, workers, seed)),
        max_staleness=options.checked("max_staleness", lambda: parse_bounds(max_staleness)),
        syncs=options.picked("syncs", syncs or (QUICK_SYNCS if quick else SYNCS), asyncopt.syncs()),
        schedules=options.picked(
            "schedules", schedules or (QUICK_SCHEDULES if quick else ()), tuple(SCHEDULES)
        ),
        workers=workers,
        repeats=options.whole("repeats", repeats, 1, options.MOST_REPEATS),
        epochs=options.whole_or_none("epochs", epochs, 1, options.MOST_EPOCHS),
        lr=options.learning_rate(lr),
        seed=options.whole("seed", seed, 0),
        mode=options.picked("mode", (mode,), options.MODES)[0],
        quick=options.flag("quick", quick),
    )
    return run(StudyStaleness(plan), out=out, progress=progress)
