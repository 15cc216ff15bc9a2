"""All trainings of one launch, judged; and the rows that repeats of one training become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from asyncopt.store import Ledger
from asyncopt.studies.delayed.plan import Contender, Plan
from asyncopt.studies.delayed.results import Row
from asyncopt.studies.delayed.subject import Subject, fresh
from asyncopt.studies.dense.plan import Variant, in_turns, make_optimizer
from asyncopt.studies.results import Spread, curve_of, staleness_of
from asyncopt.studies.training.conditions import Conditions
from asyncopt.studies.training.jobs import Job
from asyncopt.studies.training.log import Trace
from asyncopt.studies.training.measure import measure
from asyncopt.studies.training.meter import Meter

PARTS = 40  # of a loss curve


class Training(NamedTuple):
    """One training, and what its model was judged to be."""

    trace: Trace
    ledger: Ledger
    scores: dict[str, float]


Trainings = dict[tuple[str, Contender], list[Training]]  # by problem; in the order of the repeats


def train_all(
    plan: Plan,
    subjects: Sequence[Subject],
    contenders: Sequence[Contender],
    workers: int,
    conditions: Conditions,
    meter: Meter,
) -> Trainings:
    """Every contender on every problem, all repeats, in one launch."""
    order = [
        (subject, repeat, contender)
        for subject in subjects
        for repeat, contender in in_turns(contenders, plan.repeats)
    ]
    jobs = [_job(plan, *entry) for entry in order]
    data = {subject.name: subject.data(plan.seed).train for subject in subjects}
    found: Trainings = {(s.name, contender): [] for s in subjects for contender in contenders}
    measured = measure(jobs, data, workers, conditions, meter)
    for (subject, _, contender), job, each in zip(order, jobs, measured, strict=True):
        assert job.optimizer is not None
        scores = subject.score(job.model, plan.seed)
        training = Training(each.trace, job.optimizer.ledger(), scores)
        found[subject.name, contender].append(training)
    return found


def _job(plan: Plan, subject: Subject, repeat: int, contender: Contender) -> Job:
    """A fresh model, the same for every contender of a repeat, and its optimizer."""
    seed = plan.seed + repeat
    model = fresh(subject, seed)
    recipe = subject.recipe(plan, contender)
    variant = Variant(contender.sync, contender.sync, False)
    optimizer = make_optimizer(recipe.rule, model.parameters(), recipe.options, variant)
    return Job(subject.name, seed, model, optimizer, recipe)


def row_of(
    subject: Subject,
    contender: Contender,
    trainings: Sequence[Training],
    alone: Sequence[Training],
    *,
    workers: int,
    delay: str | None = None,
    bound: int | None = None,
) -> Row:
    """The repeats of one training as one line.

    Args:
        subject: what was trained.
        contender: how.
        trainings: the repeats.
        alone: the same repeats by plain SGD; `trainings` themselves where they are that.
        workers: their number.
        delay: as the user wrote it; None for plain SGD.
        bound: of staleness.
    """
    main, serial = subject.main.name, delay is None

    def pairs(name: str) -> list[tuple[float, float]]:
        return [(own.scores[name], t.scores[name]) for own, t in zip(trainings, alone, strict=True)]

    ledger = Ledger.merge([training.ledger for training in trainings])
    traces = [training.trace for training in trainings]
    return Row(
        problem=subject.name,
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
