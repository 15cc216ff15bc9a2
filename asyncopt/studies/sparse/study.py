"""Run a comparison on sparse problems: every contender with every number of threads, in turns."""

from __future__ import annotations

import contextlib
import gc
import io
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from asyncopt.studies.dense.plan import in_turns, usable_cores
from asyncopt.studies.errors import StudyError, require
from asyncopt.studies.pens import workers_text
from asyncopt.studies.progress import Display
from asyncopt.studies.results import Spread
from asyncopt.studies.session import Session
from asyncopt.studies.sparse import page
from asyncopt.studies.sparse.cuts import Cuts
from asyncopt.studies.sparse.factors import MatrixCompletion, Ranking
from asyncopt.studies.sparse.findings import findings
from asyncopt.studies.sparse.linear import LikeRcv1, TextSvm
from asyncopt.studies.sparse.plan import Plan
from asyncopt.studies.sparse.results import SCHEMA, Row, with_speedups
from asyncopt.studies.sparse.subject import Library, Settings, Subject
from asyncopt.studies.sparse.table import sheet
from asyncopt.studies.training.meter import Meter, Ticker

SUBJECTS: dict[str, Subject] = {
    subject.name: subject
    for subject in (LikeRcv1(), TextSvm(), MatrixCompletion(), Ranking(), Cuts())
}


class Own(Library):
    """asyncopt itself, under a sync."""

    module = "asyncopt"

    def __init__(self, subject: Subject, sync: str) -> None:
        self.label = sync
        self._subject = subject

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """The subject's own model."""
        try:
            return self._subject.fit(prepared, self.label, workers, settings)
        except ValueError as failure:  # it did not stay finite
            where = f"{self._subject.name} under {self.label} with {workers_text(workers)}"
            raise StudyError(f"{where}: {failure}") from failure


class Contender(NamedTuple):
    """A library, asyncopt under one of its syncs or another, with a number of workers."""

    library: Library
    sync: str | None
    workers: int


def run(plan: Plan, out: Path, *, as_json: bool) -> None:
    """Check, measure, write to the folder `out`, print.

    Raises:
        StudyError: a module is missing, `out` cannot be written to, or a model did not stay
            finite.
    """
    subjects = [SUBJECTS[name] for name in plan.problems]
    for subject in subjects:
        require(subject.needs, f"problem {subject.name}", subject.extra)
    require(("matplotlib",), "the report")
    session = Session(out)
    session.announce(
        f"{plan.repeats} x {', '.join(plan.problems)} with "
        f"{', '.join(map(str, plan.workers))} workers",
        sum(_cost(plan, subject) for subject in subjects),
    )
    chapters = measure(plan, subjects, session.progress)
    found = {chapter.subject.name: chapter.findings for chapter in chapters}
    rows = (row.as_json() for chapter in chapters for row in chapter.rows)
    results = session.document(SCHEMA, plan.as_json(), found, rows)
    report = page.render(plan, session.machine, chapters, session.about)
    tables = [(c.subject.title, sheet(c.subject, c.rows), c.findings) for c in chapters]
    session.deliver(results, report, tables, as_json=as_json)


def measure(plan: Plan, subjects: list[Subject], console: Console) -> list[page.Chapter]:
    """Measure everything; progress goes to `console`."""
    display = Display(console, sum(_cost(plan, subject) for subject in subjects))
    chapters = []
    for subject in subjects:
        contenders = list(_contenders(plan, subject))
        meter = Meter(1, len(contenders) * plan.repeats)
        with display.section(subject.name, _cost(plan, subject), meter):
            rows = _train_all(plan, subject, contenders, meter)
        chapters.append(page.Chapter(subject, rows, findings(subject, rows, usable_cores())))
    return chapters


def _contenders(plan: Plan, subject: Subject) -> Iterator[Contender]:
    """All syncs, then all libraries that are installed, each with every number of workers."""
    for sync in subject.picked(plan.syncs):
        own = Own(subject, sync)
        yield from (Contender(own, sync, workers) for workers in plan.workers)
    for library in subject.libraries:
        if library.installed:
            counts = plan.workers if library.threaded else (1,)
            yield from (Contender(library, None, workers) for workers in counts)


def _train_all(
    plan: Plan, subject: Subject, contenders: list[Contender], meter: Meter
) -> list[Row]:
    data = subject.load(plan)
    once = subject.settings(plan, 0)._replace(epochs=1)
    for library in dict.fromkeys(each.library for each in contenders):
        _train(subject, data, Contender(library, None, 1), once)  # what it imports is loaded then
    gc.freeze()  # a collection would look through all of torch, 0.1 s before every fit
    ticker = Ticker(meter.counts, 0)
    seconds: dict[Contender, list[float]] = {each: [] for each in contenders}
    scores: dict[Contender, list[dict[str, float]]] = {each: [] for each in contenders}
    for repeat, each in in_turns(contenders, plan.repeats):
        took, score = _train(subject, data, each, subject.settings(plan, repeat))
        seconds[each].append(took)
        scores[each].append(score)
        ticker.tick()
    gc.unfreeze()
    return with_speedups(
        [
            Row(
                problem=subject.name,
                contender=each.library.label,
                sync=each.sync,
                workers=each.workers,
                epochs=subject.settings(plan, 0).epochs,
                seconds=Spread(tuple(seconds[each])),
                scores={
                    measure.name: Spread(tuple(score[measure.name] for score in scores[each]))
                    for measure in subject.measures
                },
            )
            for each in contenders
        ]
    )


def _train(
    subject: Subject, data: Any, contender: Contender, settings: Settings
) -> tuple[float, dict[str, float]]:
    """Seconds of a call of fit, and what was learned."""
    library, _, workers = contender
    # Libraries warn that they were told to stop early, and print.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        prepared = library.prepare(data)
        gc.collect()
        begun = time.perf_counter()
        fitted = library.fit(prepared, settings, workers)
        took = time.perf_counter() - begun
        return took, subject.score(data, library.judged(fitted, data))


def _cost(plan: Plan, subject: Subject) -> float:
    """Rough seconds: data, then as much for every contender, and for scoring."""
    fits = sum(1 for _ in _contenders(plan, subject)) * plan.repeats
    return 2.0 + fits * subject.seconds * (subject.settings(plan, 0).epochs + 1)
