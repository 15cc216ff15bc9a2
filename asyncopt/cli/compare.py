"""Options of ``asyncopt compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt import studies
from asyncopt.cli.options import AsJson, Debug, Epochs, Mode, Out, Quick, Repeats, Seed
from asyncopt.cli.output import reported, show
from asyncopt.studies.dense.study import PROBLEMS
from asyncopt.studies.options import DELAYS, REPEATS
from asyncopt.studies.sparse.study import PROBLEMS as SPARSE


def compare(
    problem: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(PROBLEMS)}."),
    ] = None,
    sync: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(asyncopt.syncs())}."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            show_default="powers of two up to the cores and one more",
            help="Worker counts, like 1,2,4.",
        ),
    ] = None,
    repeats: Repeats = REPEATS,
    epochs: Epochs = None,
    rule: Annotated[
        str, typer.Option(help=f"Update rule: {', '.join(asyncopt.rules())}.")
    ] = "Adam",
    lr: Annotated[float | None, typer.Option(show_default="by rule", help="Learning rate.")] = None,
    seed: Seed = 0,
    mode: Mode = "process",
    audit: Annotated[
        bool, typer.Option(help="Also measure hogwild with every lost update counted.")
    ] = True,
    kill_rate: Annotated[
        float | None,
        typer.Option(help="Kills per second of a worker's working time; workers are replaced."),
    ] = None,
    delay: Annotated[
        str | None, typer.Option(help=f"Sleep of workers before a push: {DELAYS}.")
    ] = None,
    max_staleness: Annotated[
        int | None, typer.Option(help="Bound of staleness, in turns of other workers.")
    ] = None,
    out: Out = Path("asyncopt-compare"),
    as_json: AsJson = False,
    quick: Quick = False,
    debug: Debug = False,
) -> None:
    """Train real problems under each sync with 1, 2, 4 ... workers; table, JSON and a report."""
    for name in problem or ():
        if name.casefold() in SPARSE:
            raise typer.BadParameter(
                f"{name} is a sparse problem; run: asyncopt compare-sparse --problem {name}",
                param_hint="--problem",
            )
    with reported(debug):
        result = studies.compare(
            problem,
            sync,
            workers,
            repeats=repeats,
            epochs=epochs,
            rule=rule,
            lr=lr,
            seed=seed,
            mode=mode,
            audit=audit,
            kill_rate=kill_rate,
            delay=delay,
            max_staleness=max_staleness,
            quick=quick,
            out=out,
        )
        show(result, as_json=as_json, out=out)
