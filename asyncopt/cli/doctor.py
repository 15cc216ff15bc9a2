"""Options of ``asyncopt doctor``. A build that does not work exits with 1."""

from __future__ import annotations

from typing import Annotated

import typer

import asyncopt
from asyncopt import studies
from asyncopt.cli.options import AsJson, Debug
from asyncopt.cli.output import FAILED, reported, show


def doctor(
    parameters: Annotated[
        str | None,
        typer.Option(help="Parameters of a model to advise on, like 25M; with --step-ms."),
    ] = None,
    step_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds of a batch forward and backward in one worker, alone."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            show_default="devices or cores",
            help="Planned number of workers; shows the warnings for so many.",
        ),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            show_default="in place on the processor",
            help="One for each worker, like cuda:0,cuda:0,cpu.",
        ),
    ] = None,
    rule: Annotated[
        str, typer.Option(help=f"Update rule: {', '.join(asyncopt.rules())}.")
    ] = "Adam",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Examine machine and build, measure, and predict which mode of training is fastest."""
    with reported(debug):
        result = studies.doctor(parameters, step_ms, workers=workers, devices=devices, rule=rule)
        show(result, as_json=as_json)
        if not result.works:
            typer.echo("error: this build does not work; install asyncopt again", err=True)
            raise typer.Exit(FAILED)
