"""The command line: one typer application, with a command for each study.

A command has the parameters of its function in `asyncopt.studies`, by the same names and with the
same defaults, and passes all of them on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt import studies
from asyncopt.cli.options import (
    AsJson,
    Debug,
    Epochs,
    Lr,
    Mode,
    Names,
    Out,
    Quick,
    Repeats,
    Rule,
    Seed,
    Syncs,
    repeatable,
)
from asyncopt.cli.output import FAILED, answer
from asyncopt.studies.delayed import study as delayed
from asyncopt.studies.delayed.plan import NO_BOUND, SCHEDULES
from asyncopt.studies.dense import study as dense
from asyncopt.studies.options import DELAYS, REPEATS
from asyncopt.studies.simulation.costs import FILE
from asyncopt.studies.simulation.plan import CASES, USUAL_CASES, USUAL_COMPUTES, USUAL_CORES
from asyncopt.studies.sparse import study as sparse

cli = typer.Typer(
    name="asyncopt",
    help="Asynchronous optimizers for torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"asyncopt {asyncopt.__version__}")
        raise typer.Exit


@cli.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Asynchronous optimizers for torch."""


@cli.command()
def compare(
    context: typer.Context,
    problems: Annotated[Names, repeatable("--problem", dense.PROBLEMS)] = None,
    syncs: Syncs = None,
    workers: Annotated[
        str | None,
        typer.Option(
            show_default="powers of two up to the cores and one more",
            help="Worker counts, like 1,2,4.",
        ),
    ] = None,
    repeats: Repeats = REPEATS,
    epochs: Epochs = None,
    rule: Rule = "Adam",
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
    _refuse_sparse(problems)
    answer(studies.compare, **locals())


def _refuse_sparse(problems: Names) -> None:
    """Raise BadParameter, with the command to use, for a problem of `compare_sparse`."""
    for name in problems or ():
        if name.casefold() in sparse.PROBLEMS:
            raise typer.BadParameter(
                f"{name} is a sparse problem; run: asyncopt compare-sparse --problem {name}",
                param_hint="--problem",
            )


@cli.command()
def compare_sparse(
    context: typer.Context,
    problems: Annotated[Names, repeatable("--problem", sparse.PROBLEMS)] = None,
    syncs: Annotated[Names, repeatable("--sync", sparse.SYNCS)] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            show_default=",".join(map(str, sparse.WORKERS)), help="Numbers of threads, like 1,2,4."
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
    answer(studies.compare_sparse, **locals())


@cli.command()
def staleness(
    context: typer.Context,
    problems: Annotated[Names, repeatable("--problem", delayed.PROBLEMS)] = None,
    delays: Annotated[
        Names,
        typer.Option(
            "--delay",
            show_default="none, 2 ms each, and 20 ms for the last worker alone",
            help=f"Sleep of workers before a push, repeatable: {DELAYS}.",
        ),
    ] = None,
    max_staleness: Annotated[
        Names,
        typer.Option(
            show_default=NO_BOUND,
            help=f"Bound of staleness in turns of other workers, or {NO_BOUND}; repeatable.",
        ),
    ] = None,
    syncs: Annotated[
        Names, repeatable("--sync", asyncopt.syncs(), default=", ".join(delayed.SYNCS))
    ] = None,
    schedules: Annotated[
        Names,
        typer.Option(
            "--schedule",
            show_default="all",
            help="Schedule of the learning rate, repeatable: "
            + "; ".join(f"{name} ({meaning})" for name, meaning in SCHEDULES.items())
            + ".",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Workers that train at once.")] = delayed.WORKERS,
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
    answer(studies.staleness, **locals())


@cli.command()
def simulate(
    context: typer.Context,
    cases: Annotated[
        Names, repeatable("--case", CASES, default="; ".join(USUAL_CASES), between="; ")
    ] = None,
    computes: Annotated[
        str,
        typer.Option("--compute", help="Seconds of computing between two pushes, like 0,0.0001."),
    ] = USUAL_COMPUTES,
    syncs: Syncs = None,
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
    answer(studies.simulate, **locals())


@cli.command()
def doctor(
    context: typer.Context,
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
    rule: Rule = "Adam",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Examine machine and build, measure, and predict which mode of training is fastest."""
    result = answer(studies.doctor, **locals())
    if not result.works:
        typer.echo("error: this build does not work; install asyncopt again", err=True)
        raise typer.Exit(FAILED)
