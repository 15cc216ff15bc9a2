"""Measures costs and the rates that can be measured here, and predicts all others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import asyncopt
from asyncopt.report.page import Picture
from asyncopt.report.table import Table
from asyncopt.report.text import workers_text
from asyncopt.simulate import simulate as predict
from asyncopt.studies import options
from asyncopt.studies.dense.contention import Contention
from asyncopt.studies.dense.plan import SyncRow
from asyncopt.studies.driver import run
from asyncopt.studies.machine import Machine
from asyncopt.studies.progress import Display, Meter, Ticker
from asyncopt.studies.result import Result
from asyncopt.studies.simulation import costs as measured_costs
from asyncopt.studies.simulation.costs import CaseCosts, costs_text, measure_costs, read_costs
from asyncopt.studies.simulation.findings import findings, recommendation
from asyncopt.studies.simulation.plan import (
    CASES,
    QUICK_CASES,
    USUAL_CASES,
    USUAL_COMPUTES,
    USUAL_CORES,
    PredictionRow,
    Simulation,
    WorkloadProblem,
    parse_computes,
    workload_of,
)
from asyncopt.studies.simulation.table import costs_table, full_table, short_table
from asyncopt.studies.study import Section, Study

START = 4.0  # rough seconds of a launch
PROBE = 1.0  # rough seconds of probing one case
WITH_SETUP = 1.5  # times the length of a measurement
EVENTS = 4e-5  # rough seconds of simulation per core

Measured = Mapping[tuple[str, str | None, int], SyncRow]  # by workload, sync and workers


class Simulate(Study[Simulation, WorkloadProblem, PredictionRow]):
    """Every workload under every sync on every number of cores.

    Args:
        plan: the options.
        costs: of every case of the plan; None: they are measured.
    """

    name = "simulate"
    lead = (
        "What each way of writing to shared memory would do on more cores than this machine has: a "
        "simulation, fed with costs measured here and compared with rates measured here."
    )

    def __init__(self, plan: Simulation, costs: CaseCosts | None) -> None:
        super().__init__(plan)
        self._problems = plan.workloads
        self.costs = costs or {}
        self._comparison = plan.comparison(plan.syncs, plan.repeats)
        self._measurements = len(plan.workloads) * len(self._comparison.schedule())
        self._workers = plan.measured(options.usable_cores())

    @property
    def problems(self) -> tuple[WorkloadProblem, ...]:
        """The workloads of the plan."""
        return self._problems

    @property
    def summary(self) -> str:
        """Syncs, workloads and cores."""
        plan = self.plan
        return (
            f"{len(plan.syncs)} syncs x {len(plan.workloads)} workloads on up to {plan.cores[-1]} "
            "cores"
        )

    @property
    def seconds(self) -> float:
        """Rough length of everything."""
        probing = 0.0 if self.costs else self._probing
        return probing + self._measuring * len(self._workers) + self._simulating

    @property
    def costs_table(self) -> Table:
        """The input of the simulation."""
        return costs_table(self.costs)

    def measure(self, display: Display) -> list[PredictionRow]:
        """Costs, one launch per number of workers that can be measured, then the simulation."""
        if not self.costs:
            meter = Meter(1, len(self.plan.cases) * measured_costs.REPEATS * 2)
            with display.section("costs", self._probing, meter):
                self.costs = measure_costs(self.plan, meter)
        measured: dict[tuple[str, str | None, int], SyncRow] = {}
        cases = [problem.case for problem in self.problems]
        for workers in self._workers:
            meter = Meter(workers, self._measurements * workers)
            with display.section(f"measuring {workers_text(workers)}", self._measuring, meter):
                for row in Contention().measure_cases(cases, self._comparison, workers, meter):
                    measured[row.case, row.sync, workers] = row
        meter = Meter(1, len(self.problems) * len(self.plan.syncs) * len(self.plan.cores))
        with display.section("simulating", self._simulating, meter):
            return list(self._predictions(measured, meter))

    def section(
        self, problem: WorkloadProblem, rows: Sequence[PredictionRow], machine: Machine
    ) -> Section[PredictionRow]:
        """Table and findings of one workload."""
        tables = short_table(rows), full_table(rows)
        return Section(problem, rows, findings(rows), *tables, recommendation(rows))

    def pictures(
        self, problem: WorkloadProblem, rows: Sequence[PredictionRow], machine: Machine
    ) -> Iterable[Picture]:
        """Plots of one workload."""
        from asyncopt.studies.simulation import plots

        return plots.pictures(self.problems.index(problem), rows, self.plan.syncs)

    def files(self) -> dict[str, str]:
        """The costs, for another run."""
        return {measured_costs.FILE: costs_text(self.costs)}

    def _predictions(self, measured: Measured, meter: Meter) -> Iterator[PredictionRow]:
        ticker = Ticker(meter.counts, rank=0)
        plan = self.plan
        for problem in self.problems:
            workload = workload_of(problem.case)
            for sync, cores in itertools.product(plan.syncs, plan.cores):
                outcome = predict(self.costs[problem.key], sync, cores, workload, plan.seed)
                real = measured.get((problem.name, sync, cores))
                yield PredictionRow(
                    problem=problem.name,
                    case=problem.key,
                    compute=problem.case.compute,
                    sync=sync,
                    cores=cores,
                    updates_per_second=outcome.updates_per_second,
                    staleness_mean=outcome.mean_staleness,
                    staleness_p50=outcome.percentile(50),
                    staleness_p99=outcome.percentile(99),
                    waits=outcome.waits,
                    retries=outcome.retries,
                    measured_updates_per_second=None if real is None else real.updates_per_second,
                    measured_staleness=None if real is None else real.staleness,
                )
                ticker.tick()

    @property
    def _probing(self) -> float:
        """Rough seconds of measuring costs."""
        return START + PROBE * len(self.plan.cases)

    @property
    def _measuring(self) -> float:
        """Rough seconds with one number of workers."""
        return START + WITH_SETUP * Contention().seconds(self._comparison) * self._measurements

    @property
    def _simulating(self) -> float:
        """Rough seconds of the simulation."""
        plan = self.plan
        return EVENTS * len(plan.workloads) * len(plan.syncs) * (sum(plan.cores) + 40)


def simulate(
    cases: str | Iterable[str] | None = None,
    syncs: str | Iterable[str] | None = None,
    cores: str | int | Iterable[int] = USUAL_CORES,
    *,
    computes: str | float | Iterable[float] = USUAL_COMPUTES,
    costs: str | os.PathLike[str] | None = None,
    measure: bool = True,
    repeats: int = options.REPEATS,
    seed: int = 0,
    mode: str = "process",
    quick: bool = False,
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Result[PredictionRow]:
    """Predict throughput and staleness on more cores than there are, beside measured rates.

    Args:
        cases: names, like ``"dense 4 KiB"`` or ``"rows, skewed"``; None: the usual ones.
        syncs: names, as in ``sync=``; None: all.
        cores: numbers of cores, each with one worker.
        computes: seconds of computing between two pushes.
        costs: file of costs that an earlier run wrote; None: costs are measured.
        measure: whether to measure also, on as many cores as there are, and show the error.
        repeats: measurements of each.
        seed: of rows and times that are drawn.
        mode: ``"process"`` or ``"thread"``.
        quick: whether to take fewer cases: under a minute.
        out: folder for results.json, report.html and costs.json; None: nothing is written.
        progress: whether to show progress on stderr.

    Returns:
        The result; it prints as its tables.

    Raises:
        OptionError: an option has no meaning; before anything is measured.
        StudyError: a module is missing, `out` cannot be written to, or there is one processor.
    """
    plan = Simulation(
        cases=options.picked(
            "cases", cases or (QUICK_CASES if quick else USUAL_CASES), tuple(CASES)
        ),
        computes=options.checked("computes", lambda: parse_computes(computes)),
        syncs=options.picked("syncs", syncs, asyncopt.syncs()),
        cores=options.worker_counts("cores", cores),
        repeats=options.whole("repeats", repeats, 1, options.MOST_REPEATS),
        seed=options.whole("seed", seed, 0),
        mode=options.picked("mode", (mode,), options.MODES)[0],
        measure=options.flag("measure", measure),
        costs=None if costs is None else str(costs),
        quick=options.flag("quick", quick),
    )
    known = None
    if costs is not None:
        known = options.checked("costs", lambda: read_costs(costs, plan.cases))
    return run(Simulate(plan, known), out=out, progress=progress)
