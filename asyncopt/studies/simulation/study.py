"""Run a simulation: measure costs, measure what can be measured, predict everything."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from asyncopt.simulate import simulate
from asyncopt.studies import outputs
from asyncopt.studies.dense.contention import Contention
from asyncopt.studies.dense.plan import usable_cores
from asyncopt.studies.errors import require
from asyncopt.studies.progress import Display
from asyncopt.studies.results import Row as Measured
from asyncopt.studies.session import Session
from asyncopt.studies.simulation import page
from asyncopt.studies.simulation.costs import FILE, REPEATS, CaseCosts, costs_text, measure_costs
from asyncopt.studies.simulation.findings import findings
from asyncopt.studies.simulation.plan import Plan, workload_of
from asyncopt.studies.simulation.results import SCHEMA, Row
from asyncopt.studies.simulation.table import short_sheet
from asyncopt.studies.training.meter import Meter, Ticker

START = 4.0  # rough seconds of a launch
PROBE = 1.0  # rough seconds of probing one case
WITH_SETUP = 1.5  # times the length of a measurement
EVENTS = 4e-5  # rough seconds of simulation per core


def run(plan: Plan, costs: CaseCosts | None, out: Path, *, as_json: bool) -> None:
    """Check, measure, simulate, write to the folder `out`, print.

    Args:
        plan: the options.
        costs: of every case of the plan; None: measure them.
        out: the folder; the costs are written there, too.
        as_json: whether to print JSON.

    Raises:
        StudyError: a module is missing, `out` cannot be written to, or there is one processor.
    """
    require(("matplotlib",), "the report")
    session = Session(out)
    session.announce(
        f"{len(plan.syncs)} syncs x {len(plan.workloads)} workloads on up to {plan.cores[-1]} "
        "cores",
        expected_seconds(plan, costs is None),
    )
    costs, rows = study(plan, costs, session.progress)
    outputs.write_whole(out / FILE, costs_text(costs))
    chapters = [
        page.Chapter(case.name, own, findings(own))
        for _, case in plan.workloads
        if (own := [row for row in rows if row.workload == case.name])
    ]
    found = {chapter.workload: chapter.findings for chapter in chapters}
    results = session.document(SCHEMA, plan.as_json(), found, (row.as_json() for row in rows))
    report = page.render(plan, costs, session.machine, chapters, session.about)
    tables = [(c.workload, short_sheet(c.rows), c.findings) for c in chapters]
    session.deliver(results, report, tables, as_json=as_json)


def expected_seconds(plan: Plan, probing: bool) -> float:
    """Rough length of everything."""
    measuring = sum(_measuring(plan) for _ in plan.measured(usable_cores()))
    return measuring + (_probing(plan) if probing else 0.0) + _simulating(plan)


def study(plan: Plan, costs: CaseCosts | None, console: Console) -> tuple[CaseCosts, list[Row]]:
    """Measure and simulate; progress goes to `console`.

    Returns:
        The costs, and a row for every workload, sync and number of cores.
    """
    display = Display(console, expected_seconds(plan, costs is None))
    if costs is None:
        meter = Meter(1, len(plan.cases) * REPEATS * 2)
        with display.section("costs", _probing(plan), meter):
            costs = measure_costs(plan, meter)
    measured: dict[tuple[str, str | None, int], Measured] = {}
    for workers in plan.measured(usable_cores()):
        title = f"measuring {workers} worker{'s' if workers > 1 else ''}"
        meter = Meter(workers, _measurements(plan) * workers)
        with display.section(title, _measuring(plan), meter):
            for row in measure(plan, workers, meter):
                measured[row.case, row.sync, workers] = row
    meter = Meter(1, len(plan.workloads) * len(plan.syncs) * len(plan.cores))
    with display.section("simulating", _simulating(plan), meter):
        return costs, predict(plan, costs, measured, meter)


def measure(plan: Plan, workers: int, meter: Meter) -> list[Measured]:
    """All workloads under all syncs with so many workers."""
    comparison = plan.comparison(plan.syncs, plan.repeats)
    cases = [case for _, case in plan.workloads]
    return Contention().measure_cases(cases, comparison, workers, meter)


def predict(
    plan: Plan,
    costs: CaseCosts,
    measured: Mapping[tuple[str, str | None, int], Measured],
    meter: Meter,
) -> list[Row]:
    """All workloads under all syncs on all numbers of cores, beside what was measured."""
    ticker = Ticker(meter.counts, rank=0)
    rows = []
    for name, case in plan.workloads:
        workload = workload_of(case)
        for sync, cores in itertools.product(plan.syncs, plan.cores):
            outcome = simulate(costs[name], sync, cores, workload, plan.seed)
            real = measured.get((case.name, sync, cores))
            rows.append(
                Row(
                    workload=case.name,
                    case=name,
                    compute=case.compute,
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
            )
            ticker.tick()
    return rows


def _probing(plan: Plan) -> float:
    return START + PROBE * len(plan.cases)


def _measurements(plan: Plan) -> int:
    return len(plan.workloads) * len(plan.comparison(plan.syncs, plan.repeats).schedule())


def _measuring(plan: Plan) -> float:
    """Rough seconds with one number of workers."""
    comparison = plan.comparison(plan.syncs, plan.repeats)
    return START + WITH_SETUP * Contention().seconds(comparison) * _measurements(plan)


def _simulating(plan: Plan) -> float:
    return EVENTS * len(plan.workloads) * len(plan.syncs) * (sum(plan.cores) + 40)
