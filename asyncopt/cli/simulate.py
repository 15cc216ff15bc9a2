"""Options of ``asyncopt simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt import studies
from asyncopt.cli.options import AsJson, Debug, Mode, Out, Quick, Repeats
from asyncopt.cli.output import reported, show
from asyncopt.studies.options import REPEATS
from asyncopt.studies.simulation.costs import FILE
from asyncopt.studies.simulation.plan import CASES, USUAL_CASES, USUAL_COMPUTES, USUAL_CORES


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
    repeats: Repeats = REPEATS,
    seed: Annotated[int, typer.Option(help="Seed of rows and times that are drawn.")] = 0,
    mode: Mode = "process",
    out: Out = Path("asyncopt-simulate"),
    as_json: AsJson = False,
    quick: Quick = False,
    debug: Debug = False,
) -> None:
    """Predict throughput and staleness on more cores than there are, beside measured rates."""
    with reported(debug):
        result = studies.simulate(
            case,
            sync,
            cores,
            computes=compute,
            costs=costs,
            measure=measure,
            repeats=repeats,
            seed=seed,
            mode=mode,
            quick=quick,
            out=out,
        )
        show(result, as_json=as_json, out=out)
