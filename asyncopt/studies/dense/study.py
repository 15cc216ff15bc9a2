"""Compares syncs on dense problems: networks, and the contention microbenchmark."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

import asyncopt
from asyncopt.report.page import Picture
from asyncopt.report.table import Table
from asyncopt.report.text import workers_text
from asyncopt.studies import options
from asyncopt.studies.dense.contention import Contention
from asyncopt.studies.dense.findings import findings, recommendation
from asyncopt.studies.dense.plan import Comparison, DenseProblem, SyncRow, with_speedups
from asyncopt.studies.dense.table import full_table, guarantees, short_table
from asyncopt.studies.dense.training import Network
from asyncopt.studies.driver import run
from asyncopt.studies.errors import OptionError
from asyncopt.studies.machine import Machine
from asyncopt.studies.progress import Display, Meter
from asyncopt.studies.result import Result
from asyncopt.studies.study import Section, Study
from asyncopt.studies.training.networks import Digits, Mnist

PROBLEMS: dict[str, DenseProblem] = {
    problem.name: problem for problem in (Network(Mnist()), Network(Digits()), Contention())
}
MOST_KILLS = 10.0  # per second: with more, workers train less than they restart


class Compare(Study[Comparison, DenseProblem, SyncRow]):
    """Every variant on every problem with every worker count, one launch for each of the latter."""

    name = "compare"
    lead = (
        "The same real models, trained by workers that share one set of parameters, under each way "
        "of writing to shared memory."
    )

    @property
    def problems(self) -> list[DenseProblem]:
        """Problems of the plan."""
        return [PROBLEMS[name] for name in self.plan.problems]

    @property
    def summary(self) -> str:
        """Contenders, repeats, problems and workers."""
        plan = self.plan
        return (
            f"{len(plan.variants)} contenders x {plan.repeats} on {', '.join(plan.problems)} with "
            f"{', '.join(map(str, plan.workers))} workers"
        )

    @property
    def seconds(self) -> float:
        """Rough length of all launches."""
        return sum(
            problem.cost(self.plan, count)
            for problem in self.problems
            for count in self.plan.workers
        )

    @property
    def guarantees(self) -> Table:
        """Guarantees of the syncs of the plan."""
        return guarantees(self.plan.syncs)

    def measure(self, display: Display) -> list[SyncRow]:
        """One launch per problem and worker count."""
        rows: list[SyncRow] = []
        for problem in self.problems:
            for workers in self.plan.workers:
                meter = Meter(workers, problem.steps(self.plan, workers))
                title = f"{problem.name}, {workers_text(workers)}"
                with display.section(title, problem.cost(self.plan, workers), meter):
                    rows += problem.measure(self.plan, workers, meter)
        return with_speedups(rows)

    def section(
        self, problem: DenseProblem, rows: Sequence[SyncRow], machine: Machine
    ) -> Section[SyncRow]:
        """Contention has many cases, so all its rows are in the details."""
        found = findings(rows, machine.usable_cores)
        details = full_table(rows) if rows[0].case else None
        advice = recommendation(rows, machine.usable_cores)
        return Section(problem, rows, found, short_table(rows), details, advice)

    def pictures(
        self, problem: DenseProblem, rows: Sequence[SyncRow], machine: Machine
    ) -> Iterable[Picture]:
        """Plots of one problem."""
        from asyncopt.studies.dense import plots

        variants = [variant.label for variant in self.plan.variants]
        return plots.pictures(rows, machine.usable_cores, variants)


def compare(
    problems: str | Iterable[str] | None = None,
    syncs: str | Iterable[str] | None = None,
    workers: str | int | Iterable[int] | None = None,
    *,
    repeats: int = options.REPEATS,
    epochs: int | None = None,
    rule: str = "Adam",
    lr: float | None = None,
    seed: int = 0,
    mode: str = "process",
    audit: bool = True,
    kill_rate: float | None = None,
    delay: str | float | None = None,
    max_staleness: int | None = None,
    quick: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Result[SyncRow]:
    """Train real problems under each sync with several numbers of workers.

    Args:
        problems: names (``mnist``, ``digits``, ``contention``); None: all that the other options
            allow.
        syncs: names, as in ``sync=``; None: all.
        workers: counts; None: powers of two up to the cores and one more.
        repeats: runs of each.
        epochs: passes over the data; None: by problem.
        rule: name of the optimizer, in any case.
        lr: learning rate; None: by rule.
        seed: of the split, weights and order of the data.
        mode: ``"process"`` or ``"thread"``.
        audit: whether to measure hogwild also with every lost update counted.
        kill_rate: kills per second of a worker's working time, at most 10; None: none.
        delay: sleep of workers before a push: seconds, ``exponential:MEAN``, either for each
            worker with commas, or a file that ``asyncopt.Delay.record`` wrote; None: none.
        max_staleness: bound of staleness, in turns of other workers; None: none.
        quick: whether to take fewer workers, epochs and sizes: under a minute.
        out: folder for results.json and report.html; None: nothing is written.
        progress: whether to show progress on stderr.

    Returns:
        The result; it prints as its tables.

    Raises:
        OptionError: an option has no meaning; before anything is measured.
        StudyError: a module is missing, `out` cannot be written to, or the build is broken.
        WorkerError, RunTimeout: as ``launch``.
    """
    counts = (
        (options.QUICK_WORKERS if quick else options.default_workers(options.usable_cores()))
        if workers is None
        else options.worker_counts("workers", workers)
    )
    slept = None if delay is None else str(delay)
    if slept is not None:
        options.checked("delay", lambda: options.parse_delay(slept, counts[-1], seed))
    options.whole_or_none("max_staleness", max_staleness, 0, None)
    disturbed = any(each is not None for each in (kill_rate, delay, max_staleness))
    plan = Comparison(
        problems=options.checked(
            "problems", lambda: pick_problems(options.several(problems), disturbed)
        ),
        syncs=options.picked("syncs", syncs, asyncopt.syncs()),
        workers=counts,
        repeats=options.whole("repeats", repeats, 1, options.MOST_REPEATS),
        epochs=options.whole_or_none("epochs", epochs, 1, options.MOST_EPOCHS),
        rule=options.picked("rule", (rule,), asyncopt.rules())[0],
        lr=options.learning_rate(lr),
        seed=options.whole("seed", seed, 0),
        mode=options.picked("mode", (mode,), options.MODES)[0],
        audit=options.flag("audit", audit),
        quick=options.flag("quick", quick),
        kill_rate=kill_rate,
        delay=slept,
        max_staleness=max_staleness,
    )
    if kill_rate is not None:
        check_kills(kill_rate, plan.mode)
    return run(Compare(plan), out=out, progress=progress)


def pick_problems(names: Sequence[str], disturbed: bool) -> tuple[str, ...]:
    """`names` as `pick` has them; without names, those that can be measured.

    Args:
        names: as the user gave them.
        disturbed: whether workers are to be killed, delayed or bound, which takes turns.

    Raises:
        ValueError: one of `names` is not known, or cannot be disturbed.
    """
    known = options.pick(names, tuple(PROBLEMS), "problem")
    unfit = [name for name in known if disturbed and not PROBLEMS[name].takes_turns]
    if names and unfit:
        raise ValueError(
            f"{unfit[0]} pushes ready-made gradients without turns and counts every update to the "
            "last element: it cannot be measured with --kill-rate, --delay or --max-staleness; "
            "leave it out"
        )
    return tuple(name for name in known if name not in unfit)


def check_kills(rate: float, mode: str) -> None:
    """Raise OptionError for kills that no run in `mode` can have; `rate` is per second."""
    if not (options.is_number(rate) and 0 < rate <= MOST_KILLS):
        raise OptionError(
            "kill_rate", f"expected kills per second above 0, up to {MOST_KILLS:g}; got {rate!r}"
        )
    if mode != "process":
        raise OptionError(
            "kill_rate", "expected --mode process, got thread; threads cannot be killed"
        )
