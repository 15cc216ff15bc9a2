"""The commands and their options. Bad options exit with 2, failed runs with 1, Ctrl-C with 130."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.padding import Padding

import asyncopt
from asyncopt.cli import doctor as doctoring
from asyncopt.cli import machine as machines
from asyncopt.cli import measure, outputs, report, table
from asyncopt.cli.failures import FAILED, reported
from asyncopt.cli.plan import (
    MODES,
    QUICK_WORKERS,
    Plan,
    default_workers,
    parse_workers,
    pick,
    usable_cores,
)
from asyncopt.cli.problems import PROBLEMS

T = TypeVar("T")

cli = typer.Typer(
    name="asyncopt",
    help="Asynchronous optimizers for torch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


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
    problem: Annotated[
        list[str] | None,
        typer.Option(help=f"Repeatable: {', '.join(PROBLEMS)}. [default: all]"),
    ] = None,
    sync: Annotated[
        list[str] | None,
        typer.Option(help=f"Repeatable: {', '.join(asyncopt.syncs())}. [default: all]"),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Worker counts, like 1,2,4. [default: powers of two up to the cores and one more]"
        ),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Runs of each. [default: 3]")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, max=10_000, help="Passes over the data. [default: by problem]"),
    ] = None,
    rule: Annotated[
        str, typer.Option(help=f"Update rule: {', '.join(asyncopt.rules())}.")
    ] = "Adam",
    lr: Annotated[
        float | None, typer.Option(min=0.0, help="Learning rate. [default: by rule]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of split, weights and order of data.")] = 0,
    mode: Annotated[str, typer.Option(help=f"What a worker is: {' or '.join(MODES)}.")] = "process",
    audit: Annotated[
        bool, typer.Option(help="Also measure hogwild with every lost update counted.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")] = Path(
        "asyncopt-compare"
    ),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: fewer workers, epochs and sizes.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train real problems under each sync with 1, 2, 4 ... workers; table, JSON and a report."""
    counts = QUICK_WORKERS if quick else default_workers(usable_cores())
    if workers is not None:
        counts = _checked("--workers", lambda: parse_workers(workers))
    plan = Plan(
        problems=_checked("--problem", lambda: pick(problem or (), tuple(PROBLEMS), "problem")),
        syncs=_checked("--sync", lambda: pick(sync or (), asyncopt.syncs(), "sync")),
        workers=counts,
        repeats=repeats or 3,
        epochs=epochs,
        rule=_checked("--rule", lambda: pick((rule,), asyncopt.rules(), "rule"))[0],
        lr=lr,
        seed=seed,
        mode=_checked("--mode", lambda: pick((mode,), MODES, "mode"))[0],
        audit=audit,
        quick=quick,
    )
    with reported(debug):
        _compare(plan, out, as_json)


def _checked(option: str, parse: Callable[[], T]) -> T:
    """What `parse` returns; its ValueError becomes a usage error (exit code 2) of `option`."""
    try:
        return parse()
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong), param_hint=option) from None


def _compare(plan: Plan, out: Path, as_json: bool) -> None:
    """Check, measure, write, print."""
    measure.check_extras(plan)
    outputs.prepare(out)
    progress = Console(stderr=True)
    about = outputs.facts(datetime.now())
    machine = machines.look()
    progress.print(
        f"{len(plan.variants)} contenders x {plan.repeats} on {', '.join(plan.problems)} with "
        f"{', '.join(map(str, plan.workers))} workers: about "
        f"{max(1, round(measure.expected_seconds(plan) / 60))} min",
        highlight=False,
    )
    if machine.busy:
        progress.print(
            f"warning: {machine.load:.1f} other processes want to run on "
            f"{machine.usable_cores} cores; the numbers will be noisy",
            highlight=False,
        )
    begun = time.perf_counter()
    rows = measure.compare(plan, progress)
    results = outputs.document(plan, machine, rows, about, time.perf_counter() - begun)
    outputs.write(out, results, report.render(plan, machine, rows, about))
    if as_json:
        typer.echo(json.dumps(results, indent=1, allow_nan=False))
    else:
        # Into a pipe or a file the tables go as wide as they are.
        console = Console() if sys.stdout.isatty() else Console(width=120)
        for name in plan.problems:
            own = [row for row in rows if row.problem == name]
            title = PROBLEMS[name].title
            table.print_sheet(console, title, table.short_sheet(own))
            for sentence in results["findings"][name]:
                console.print(Padding(sentence, (0, 0, 0, 2)), highlight=False)
            console.print()
    progress.print(f"report: {out / outputs.REPORT}", highlight=False, soft_wrap=True)
    progress.print(f"numbers: {out / outputs.RESULTS}", highlight=False, soft_wrap=True)


@cli.command()
def doctor(
    workers: Annotated[
        int | None, typer.Option(min=1, help="Warn of what hurts with this many workers.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print facts and warnings as JSON.")] = (
        False
    ),
    debug: Debug = False,
) -> None:
    """Look at machine and build, and warn of what will hurt; exit with 1 if the build is broken."""
    with reported(debug):
        diagnosis = doctoring.examine(workers)
        if as_json:
            typer.echo(json.dumps(diagnosis.as_json(), indent=1, allow_nan=False))
        else:
            doctoring.print_diagnosis(Console(), diagnosis)
        if not diagnosis.works:
            typer.echo("error: this build does not work; install asyncopt again", err=True)
            raise typer.Exit(FAILED)
