"""The options of ``asyncopt simulate``. Bad ones exit with 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt.cli.failures import reported
from asyncopt.cli.options import AsJson, Debug, Out, Repeats, checked
from asyncopt.studies.dense.plan import MODES, parse_workers, pick
from asyncopt.studies.simulation import study
from asyncopt.studies.simulation.costs import FILE, read_costs
from asyncopt.studies.simulation.plan import (
    CASES,
    QUICK_CASES,
    USUAL_CASES,
    USUAL_COMPUTES,
    USUAL_CORES,
    Plan,
    parse_computes,
)


def simulate(
    case: Annotated[
        list[str] | None,
        typer.Option(show_default="; ".join(USUAL_CASES), help=f"Repeatable: {'; '.join(CASES)}."),
    ] = None,
    compute: Annotated[
        str, typer.Option(help="Seconds of computing between two pushes, like 0,0.0001.")
    ] = USUAL_COMPUTES,
    sync: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(asyncopt.syncs())}."),
    ] = None,
    cores: Annotated[
        str, typer.Option(help="Numbers of cores, each with one worker, like 1,2,64.")
    ] = USUAL_CORES,
    costs: Annotated[
        Path | None,
        typer.Option(show_default="measured", help=f"Costs that an earlier run wrote to {FILE}."),
    ] = None,
    measure: Annotated[
        bool, typer.Option(help="Also measure, on as many cores as there are, and show the error.")
    ] = True,
    repeats: Repeats = None,
    seed: Annotated[int, typer.Option(min=0, help="Of rows and times that are drawn.")] = 0,
    mode: Annotated[str, typer.Option(help=f"What a worker is: {' or '.join(MODES)}.")] = "process",
    out: Out = Path("asyncopt-simulate"),
    as_json: AsJson = False,
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute: fewer cases.")] = False,
    debug: Debug = False,
) -> None:
    """Predict throughput and staleness on more cores than there are, beside what is measured."""
    names = case or (QUICK_CASES if quick else USUAL_CASES)
    plan = Plan(
        cases=checked("--case", lambda: pick(names, (*CASES,), "case")),
        computes=checked("--compute", lambda: parse_computes(compute)),
        syncs=checked("--sync", lambda: pick(sync or (), asyncopt.syncs(), "sync")),
        cores=checked("--cores", lambda: parse_workers(cores)),
        repeats=repeats or 3,
        seed=seed,
        mode=checked("--mode", lambda: pick((mode,), MODES, "mode"))[0],
        measure=measure,
        costs=None if costs is None else str(costs),
        quick=quick,
    )
    known = None if costs is None else checked("--costs", lambda: read_costs(costs, plan.cases))
    with reported(debug):
        study.run(plan, known, out, as_json=as_json)
