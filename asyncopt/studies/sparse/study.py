"""Compares ways to share sparse models: every contender with every number of threads, in turns."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from asyncopt.report.page import Picture
from asyncopt.report.table import Column, Table, table_of
from asyncopt.report.text import NOTHING, workers_text
from asyncopt.studies import options
from asyncopt.studies.driver import run
from asyncopt.studies.errors import OptionError, StudyError
from asyncopt.studies.machine import Machine
from asyncopt.studies.progress import Display, Meter, Ticker
from asyncopt.studies.result import Result
from asyncopt.studies.rows import TIME_MEANING, Spread
from asyncopt.studies.sparse.cuts import Cuts
from asyncopt.studies.sparse.factors import MatrixCompletion, Ranking
from asyncopt.studies.sparse.findings import findings, recommendation
from asyncopt.studies.sparse.linear import LikeRcv1, TextSvm
from asyncopt.studies.sparse.problem import (
    FitRow,
    Library,
    Settings,
    SparseComparison,
    SparseProblem,
    in_order,
    with_speedups,
)
from asyncopt.studies.study import Section, Study

PROBLEMS: dict[str, SparseProblem] = {
    problem.name: problem
    for problem in (LikeRcv1(), TextSvm(), MatrixCompletion(), Ranking(), Cuts())
}
SYNCS = in_order(dict.fromkeys(sync for each in PROBLEMS.values() for sync in each.syncs))
WORKERS = (1, 2, 4, 8)  # as in the paper, on every machine
MEANINGS = {
    "round-robin": "threads compute at once and update in turns (Langford et al., NIPS 2009)",
    "replicated": "each thread keeps copies of columns, the more frequent ones merged more often",
    "ordered": "work is split so that no two threads ever meet, with the bits of one thread",
    "unshared": "each thread has its own model, averaged after a pass: the floor of all others",
}


class Own(Library):
    """asyncopt itself, under a sync."""

    module = "asyncopt"

    def __init__(self, problem: SparseProblem, sync: str) -> None:
        self.label = sync
        self._problem = problem

    def fit(self, prepared: Any, settings: Settings, workers: int) -> Any:
        """The problem's own model."""
        try:
            return self._problem.fit(prepared, self.label, workers, settings)
        except ValueError as failure:  # it did not stay finite
            where = f"{self._problem.name} under {self.label} with {workers_text(workers)}"
            raise StudyError(f"{where}: {failure}") from failure


class Contender(NamedTuple):
    """A library, asyncopt under one of its syncs or another, with a number of workers."""

    library: Library
    sync: str | None
    workers: int


class CompareSparse(Study[SparseComparison, SparseProblem, FitRow]):
    """Every sync and installed library on every problem, with every number of threads."""

    name = "compare-sparse"
    lead = (
        "The problems of the Hogwild! paper: threads that share one sparse model, under each way "
        "of sharing it, beside the paper's rival (round-robin) and other libraries."
    )

    @property
    def problems(self) -> list[SparseProblem]:
        """Problems of the plan."""
        return [PROBLEMS[name] for name in self.plan.problems]

    @property
    def summary(self) -> str:
        """Repeats, problems and workers."""
        plan = self.plan
        counts = ", ".join(map(str, plan.workers))
        return f"{plan.repeats} x {', '.join(plan.problems)} with {counts} workers"

    @property
    def seconds(self) -> float:
        """Rough length of all problems."""
        return sum(_cost(self.plan, problem) for problem in self.problems)

    def measure(self, display: Display) -> list[FitRow]:
        """All contenders of one problem in turns, then the next problem."""
        rows: list[FitRow] = []
        for problem in self.problems:
            contenders = list(_contenders(self.plan, problem))
            meter = Meter(1, len(contenders) * self.plan.repeats)
            with display.section(problem.name, _cost(self.plan, problem), meter):
                rows += _train_all(self.plan, problem, contenders, meter)
        return rows

    def section(
        self, problem: SparseProblem, rows: Sequence[FitRow], machine: Machine
    ) -> Section[FitRow]:
        """Table and findings of one problem."""
        found = findings(problem, rows, machine.usable_cores)
        advice = recommendation(problem, rows, machine.usable_cores)
        return Section(problem, rows, found, table(problem, rows), recommendation=advice)

    def pictures(
        self, problem: SparseProblem, rows: Sequence[FitRow], machine: Machine
    ) -> Iterable[Picture]:
        """Plots of one problem."""
        from asyncopt.studies.sparse import plots

        return plots.pictures(problem, rows, machine.usable_cores)

    def meanings(self, rows: Sequence[FitRow]) -> dict[str, str]:
        """Explanations of the syncs that were measured."""
        measured = {row.contender for row in rows}
        return {sync: meaning for sync, meaning in MEANINGS.items() if sync in measured}


def compare_sparse(
    problems: str | Iterable[str] | None = None,
    syncs: str | Iterable[str] | None = None,
    workers: str | int | Iterable[int] | None = None,
    *,
    repeats: int = options.REPEATS,
    epochs: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    quick: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Result[FitRow]:
    """Train the sparse problems of the Hogwild! paper, beside other libraries.

    Args:
        problems: names; None: all.
        syncs: names; None: all.
        workers: numbers of threads; None: 1, 2, 4 and 8, as in the paper.
        repeats: calls of ``fit`` of each.
        epochs: passes over the data; None: by problem.
        lr: learning rate; None: by problem.
        seed: of the data, split and order.
        quick: whether to take fewer workers, epochs and examples.
        out: folder for results.json and report.html; None: nothing is written.
        progress: whether to show progress on stderr.

    Returns:
        The result; it prints as its tables.

    Raises:
        OptionError: an option has no meaning; before anything is measured.
        StudyError: a module is missing, `out` cannot be written to, or a model did not stay finite.
    """
    names = options.picked("problems", problems, tuple(PROBLEMS))
    chosen = options.picked("syncs", syncs, SYNCS)
    for name in names:
        known = PROBLEMS[name]
        if not known.picked(chosen):
            raise OptionError(
                "syncs",
                f"expected some that {name} has, {', '.join(known.syncs)}; got {', '.join(chosen)}",
            )
    counts = options.QUICK_WORKERS if quick else WORKERS
    plan = SparseComparison(
        problems=names,
        syncs=chosen,
        workers=counts if workers is None else options.worker_counts("workers", workers),
        repeats=options.whole("repeats", repeats, 1, options.MOST_REPEATS),
        epochs=options.whole_or_none("epochs", epochs, 1, options.MOST_EPOCHS),
        lr=options.learning_rate(lr),
        seed=options.whole("seed", seed, 0),
        quick=options.flag("quick", quick),
    )
    return run(CompareSparse(plan), out=out, progress=progress)


def table(problem: SparseProblem, rows: Sequence[FitRow]) -> Table:
    """One table row per row of a problem: contender by contender, each by workers."""
    columns = [
        Column[FitRow](
            "contender", "how threads share the model, or another library", lambda r: r.contender
        ),
        Column[FitRow]("workers", "threads that train at once", lambda r: str(r.workers)),
        Column[FitRow](
            "time s",
            f"a whole call of fit; {TIME_MEANING}",
            lambda r: str(r.seconds),
        ),
        Column[FitRow](
            "speed-up",
            "against one worker of the same contender",
            lambda r: NOTHING if r.speedup is None else f"{r.speedup:.2f}x",
        ),
        *(measure.column() for measure in problem.measures),
    ]
    return table_of(
        columns,
        rows,
        left=1,
        group=lambda row: row.contender,
        aside=lambda row: row.sync is None,
    )


def _contenders(plan: SparseComparison, problem: SparseProblem) -> Iterator[Contender]:
    """All syncs, then all libraries that are installed, each with every number of workers."""
    for sync in problem.picked(plan.syncs):
        own = Own(problem, sync)
        yield from (Contender(own, sync, workers) for workers in plan.workers)
    for library in problem.libraries:
        if library.installed:
            counts = plan.workers if library.threaded else (1,)
            yield from (Contender(library, None, workers) for workers in counts)


def _train_all(
    plan: SparseComparison, problem: SparseProblem, contenders: list[Contender], meter: Meter
) -> list[FitRow]:
    data = problem.load(plan)
    once = problem.settings(plan, 0)._replace(epochs=1)
    for library in dict.fromkeys(each.library for each in contenders):
        _train(problem, data, Contender(library, None, 1), once)  # loads its imports
    gc.freeze()  # a collection would look through all of torch, 0.1 s before every fit
    ticker = Ticker(meter.counts, 0)
    seconds: dict[Contender, list[float]] = {each: [] for each in contenders}
    scores: dict[Contender, list[dict[str, float]]] = {each: [] for each in contenders}
    for repeat, each in options.in_turns(contenders, plan.repeats):
        took, score = _train(problem, data, each, problem.settings(plan, repeat))
        seconds[each].append(took)
        scores[each].append(score)
        ticker.tick()
    gc.unfreeze()
    return with_speedups(
        [
            FitRow(
                problem=problem.name,
                contender=each.library.label,
                sync=each.sync,
                workers=each.workers,
                epochs=problem.settings(plan, 0).epochs,
                seconds=Spread(tuple(seconds[each])),
                scores={
                    measure.name: Spread(tuple(score[measure.name] for score in scores[each]))
                    for measure in problem.measures
                },
            )
            for each in contenders
        ]
    )


def _train(
    problem: SparseProblem, data: Any, contender: Contender, settings: Settings
) -> tuple[float, dict[str, float]]:
    """Seconds of a call of fit, and the scores of the model."""
    library, _, workers = contender
    # Libraries warn that they stopped early, and print.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        prepared = library.prepare(data)
        gc.collect()
        begun = time.perf_counter()
        fitted = library.fit(prepared, settings, workers)
        took = time.perf_counter() - begun
        return took, problem.score(data, library.judged(fitted, data))


def _cost(plan: SparseComparison, problem: SparseProblem) -> float:
    """Rough seconds: data, then as much for every contender, and for scoring."""
    fits = sum(1 for _ in _contenders(plan, problem)) * plan.repeats
    return 2.0 + fits * problem.seconds * (problem.settings(plan, 0).epochs + 1)
