"""Options of ``asyncopt compare-sparse``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncopt import studies
from asyncopt.cli.options import AsJson, Debug, Epochs, Lr, Out, Quick, Repeats, Seed
from asyncopt.cli.output import reported, show
from asyncopt.studies.options import REPEATS
from asyncopt.studies.sparse.study import PROBLEMS, SYNCS, WORKERS


def compare_sparse(
    problem: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(PROBLEMS)}."),
    ] = None,
    sync: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(SYNCS)}."),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            show_default=",".join(map(str, WORKERS)), help="Numbers of threads, like 1,2,4."
        ),
    ] = None,
    repeats: Repeats = REPEATS,
    epochs: Epochs = None,
    lr: Lr = None,
    seed: Seed = 0,
    out: Out = Path("asyncopt-compare-sparse"),
    as_json: AsJson = False,
    quick: Quick = False,
    debug: Debug = False,
) -> None:
    """Train the sparse problems of the Hogwild! paper with threads, beside other libraries."""
    with reported(debug):
        result = studies.compare_sparse(
            problem,
            sync,
            workers,
            repeats=repeats,
            epochs=epochs,
            lr=lr,
            seed=seed,
            quick=quick,
            out=out,
        )
        show(result, as_json=as_json, out=out)
