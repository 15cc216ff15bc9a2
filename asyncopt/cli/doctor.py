"""The options of ``asyncopt doctor``. Bad ones exit with 2, a build that does not work with 1."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console

import asyncopt
from asyncopt.cli.failures import FAILED, reported
from asyncopt.cli.options import AsJson, Debug, checked
from asyncopt.studies.dense.plan import MOST_WORKERS, pick, usable_cores
from asyncopt.studies.diagnosis.diagnosis import examine
from asyncopt.studies.diagnosis.rates import cuda_devices
from asyncopt.studies.diagnosis.show import print_diagnosis
from asyncopt.studies.diagnosis.task import (
    Task,
    count_workers,
    parse_devices,
    parse_parameters,
    parse_step,
)


def doctor(
    parameters: Annotated[
        str | None, typer.Option(help="Of a model to advise on, like 25M; with --step-ms.")
    ] = None,
    step_ms: Annotated[
        float | None,
        typer.Option(help="Milliseconds of a batch forward and backward in one worker, alone."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_WORKERS,
            show_default="devices or cores",
            help="How many are planned; warns of what hurts with so many.",
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
    """Look at machine and build, measure, warn of what will hurt; say which mode will pay."""
    task = _task(parameters, step_ms, workers, devices, rule)
    with reported(debug):
        diagnosis = examine(workers, task)
        if as_json:
            typer.echo(json.dumps(diagnosis.as_json(), indent=1, allow_nan=False))
        else:
            print_diagnosis(Console(), diagnosis)
        if not diagnosis.works:
            typer.echo("error: this build does not work; install asyncopt again", err=True)
            raise typer.Exit(FAILED)


def _task(
    parameters: str | None,
    step_ms: float | None,
    workers: int | None,
    devices: str | None,
    rule: str,
) -> Task | None:
    """What to advise on; None: nothing."""
    name = checked("--rule", lambda: pick((rule,), asyncopt.rules(), "rule"))[0]
    named = (
        ()
        if devices is None
        else checked("--devices", lambda: parse_devices(devices, cuda_devices()))
    )
    count = checked("--devices", lambda: count_workers(workers, named, usable_cores()))
    if parameters is None and step_ms is None:
        return None
    if parameters is None or step_ms is None:
        missing, given = ("--step-ms", "--parameters")
        if parameters is None:
            missing, given = given, missing
        raise typer.BadParameter(f"expected {missing} as well", param_hint=given)
    return Task(
        parameters=checked("--parameters", lambda: parse_parameters(parameters)),
        compute=checked("--step-ms", lambda: parse_step(step_ms)),
        workers=count,
        rule=name,
        devices=named,
    )
