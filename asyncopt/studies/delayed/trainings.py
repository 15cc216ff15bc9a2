"""The trainings of one launch, scored, and the rows that their repeats become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from asyncopt.store import Ledger
from asyncopt.studies.delayed.plan import SCALED, Contender, Delayed, DelayRow
from asyncopt.studies.delayed.problems import DelayedProblem
from asyncopt.studies.options import in_turns, seed_of
from asyncopt.studies.progress import Meter
from asyncopt.studies.rows import Spread, curve_of, staleness_of
from asyncopt.studies.training.jobs import Job, Recipe, Variant, make_optimizer
from asyncopt.studies.training.log import Trace
from asyncopt.studies.training.measure import Conditions, measure

PARTS = 40  # of a loss curve


class Training(NamedTuple):
    """One training and the scores of its model."""

    trace: Trace
    ledger: Ledger
    scores: dict[str, float]


Trainings = dict[tuple[str, Contender], list[Training]]  # by problem; in the order of the repeats


def train_all(
    plan: Delayed,
    problems: Sequence[DelayedProblem],
    contenders: Sequence[Contender],
    workers: int,
    conditions: Conditions,
    meter: Meter,
) -> Trainings:
    """Every contender on every problem, all repeats, in one launch."""
    order = [
        (problem, repeat, contender)
        for problem in problems
        for repeat, contender in in_turns(contenders, plan.repeats)
    ]
    jobs = [_job(plan, *entry) for entry in order]
    data = {problem.name: problem.load(plan.seed).train for problem in problems}
    found: Trainings = {(s.name, contender): [] for s in problems for contender in contenders}
    measured = measure(jobs, data, workers, conditions, meter)
    for (problem, _, contender), job, each in zip(order, jobs, measured, strict=True):
        assert job.optimizer is not None
        scores = problem.score(job.model, plan.seed)
        training = Training(each.trace, job.optimizer.ledger(), scores)
        found[problem.name, contender].append(training)
    return found


def _job(plan: Delayed, problem: DelayedProblem, repeat: int, contender: Contender) -> Job:
    """A new model, the same for every contender of a repeat, and its optimizer."""
    seed = seed_of(plan.seed, repeat)
    model = problem.initial(seed)
    recipe = recipe_of(plan, problem, contender)
    variant = Variant(contender.sync, contender.sync, False)
    optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, variant)
    return Job(problem.name, seed, model, optimizer, recipe)


def recipe_of(plan: Delayed, problem: DelayedProblem, contender: Contender) -> Recipe:
    """Settings of the training of a contender's model."""
    options: dict[str, Any] = {"lr": problem.lr if plan.lr is None else plan.lr}
    if contender.schedule == SCALED:
        options["staleness_lr"] = "inverse"
    return Recipe(
        problem.batch_size,
        problem.passes(plan),
        "SGD",
        options,
        problem.loss,
        contender.serial.schedule,
        "dynamic",
    )


def row_of(
    problem: DelayedProblem,
    contender: Contender,
    trainings: Sequence[Training],
    alone: Sequence[Training],
    *,
    workers: int,
    delay: str | None = None,
    bound: int | None = None,
) -> DelayRow:
    """The repeats of one training as a row.

    Args:
        problem: that was trained.
        contender: sync and schedule.
        trainings: the repeats.
        alone: the same repeats by plain SGD; `trainings` themselves for plain SGD.
        workers: their number.
        delay: as the user wrote it; None for plain SGD.
        bound: of staleness.
    """
    main, serial = problem.main.name, delay is None

    def pairs(name: str) -> list[tuple[float, float]]:
        return [(own.scores[name], t.scores[name]) for own, t in zip(trainings, alone, strict=True)]

    ledger = Ledger.merge([training.ledger for training in trainings])
    traces = [training.trace for training in trainings]
    return DelayRow(
        problem=problem.name,
        delay=delay,
        max_staleness=bound,
        sync=None if serial else contender.sync,
        schedule=contender.schedule,
        workers=workers,
        pushes=ledger.pushes,
        seconds=Spread(tuple(trace.seconds for trace in traces)),
        updates_per_second=Spread(tuple(len(t.points) / t.seconds for t in traces)),
        staleness=None if serial else staleness_of(ledger),
        scores={
            name: Spread(tuple(training.scores[name] for training in trainings))
            for name in trainings[0].scores
        },
        ratio=Spread(tuple(own / other for own, other in pairs(main))),
        gap_change=Spread(tuple(own - other for own, other in pairs("gap"))),
        norm_ratio=Spread(tuple(own / other for own, other in pairs("norm"))),
        losses=tuple(curve_of(trace.points, most=PARTS).loss for trace in traces),
    )
