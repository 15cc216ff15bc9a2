"""Options of ``asyncopt staleness``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt import studies
from asyncopt.cli.options import AsJson, Debug, Epochs, Lr, Mode, Out, Quick, Repeats, Seed
from asyncopt.cli.output import reported, show
from asyncopt.studies.delayed.plan import NO_BOUND, SCHEDULES
from asyncopt.studies.delayed.study import PROBLEMS, SYNCS, WORKERS
from asyncopt.studies.options import DELAYS, REPEATS


def staleness(
    problem: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(PROBLEMS)}."),
    ] = None,
    delay: Annotated[
        list[str] | None,
        typer.Option(
            show_default="none, 2 ms each, and 20 ms for the last worker alone",
            help=f"Sleep of workers before a push, repeatable: {DELAYS}.",
        ),
    ] = None,
    max_staleness: Annotated[
        list[str] | None,
        typer.Option(
            show_default=NO_BOUND,
            help=f"Bound of staleness in turns of other workers, or {NO_BOUND}; repeatable.",
        ),
    ] = None,
    sync: Annotated[
        list[str] | None,
        typer.Option(
            show_default=", ".join(SYNCS), help=f"Repeatable: {', '.join(asyncopt.syncs())}."
        ),
    ] = None,
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help="Schedule of the learning rate, repeatable: "
            + "; ".join(f"{name} ({meaning})" for name, meaning in SCHEDULES.items())
            + ".",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Workers that train at once.")] = WORKERS,
    repeats: Repeats = REPEATS,
    epochs: Epochs = None,
    lr: Lr = None,
    seed: Seed = 0,
    mode: Mode = "process",
    out: Out = Path("asyncopt-staleness"),
    as_json: AsJson = False,
    quick: Quick = False,
    debug: Debug = False,
) -> None:
    """Train under injected delays and show what stale gradients do, beside plain serial SGD."""
    with reported(debug):
        result = studies.staleness(
            problem,
            delay,
            sync,
            max_staleness=max_staleness,
            schedules=schedule,
            workers=workers,
            repeats=repeats,
            epochs=epochs,
            lr=lr,
            seed=seed,
            mode=mode,
            quick=quick,
            out=out,
        )
        show(result, as_json=as_json, out=out)
