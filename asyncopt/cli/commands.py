"""The commands and their options. Bad options exit with 2, failed runs with 1, Ctrl-C with 130."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt.cli import sparse
from asyncopt.cli.doctor import doctor
from asyncopt.cli.failures import reported
from asyncopt.cli.options import AsJson, Debug, Epochs, Out, Repeats, checked
from asyncopt.cli.simulate import simulate
from asyncopt.cli.staleness import staleness
from asyncopt.studies.delays import GRAMMAR, parse_delay
from asyncopt.studies.dense import study as measure
from asyncopt.studies.dense.plan import (
    MODES,
    MOST_KILLS,
    QUICK_WORKERS,
    Plan,
    check_kills,
    default_workers,
    parse_workers,
    pick,
    pick_problems,
    usable_cores,
)
from asyncopt.studies.dense.problems import PROBLEMS
from asyncopt.studies.sparse import study
from asyncopt.studies.sparse.plan import WORKERS
from asyncopt.studies.sparse.study import SUBJECTS

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
    problem: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all dense",
            help=f"Repeatable. Dense: {', '.join(PROBLEMS)}; sparse, of the Hogwild! paper: "
            f"{', '.join(SUBJECTS)}.",
        ),
    ] = None,
    sync: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all",
            help=f"Repeatable. Dense: {', '.join(asyncopt.syncs())}; sparse: "
            f"{', '.join(sparse.SYNCS)}.",
        ),
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            show_default="powers of two up to the cores and one more; sparse: "
            + ",".join(map(str, WORKERS)),
            help="Worker counts, like 1,2,4.",
        ),
    ] = None,
    repeats: Repeats = None,
    epochs: Epochs = None,
    rule: Annotated[
        str, typer.Option(help=f"Update rule: {', '.join(asyncopt.rules())}.")
    ] = "Adam",
    lr: Annotated[
        float | None, typer.Option(min=0.0, show_default="by rule", help="Learning rate.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of split, weights and order of data.")] = 0,
    mode: Annotated[str, typer.Option(help=f"What a worker is: {' or '.join(MODES)}.")] = "process",
    audit: Annotated[
        bool, typer.Option(help="Also measure hogwild with every lost update counted.")
    ] = True,
    kill_rate: Annotated[
        float | None,
        typer.Option(
            max=MOST_KILLS, help="Kill workers so often per second of their work, and replace them."
        ),
    ] = None,
    delay: Annotated[
        str | None, typer.Option(help=f"What workers sleep before a push: {GRAMMAR}.")
    ] = None,
    max_staleness: Annotated[
        int | None, typer.Option(min=0, help="Bound of staleness, in turns of other workers.")
    ] = None,
    out: Out = Path("asyncopt-compare"),
    as_json: AsJson = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: fewer workers, epochs and sizes.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train real problems under each sync with 1, 2, 4 ... workers; table, JSON and a report."""
    given = None if workers is None else checked("--workers", lambda: parse_workers(workers))
    if checked("--problem", lambda: sparse.are_sparse(problem or ())):
        sparse_plan = sparse.make_plan(
            context,
            problem or (),
            sync or (),
            workers=given,
            repeats=repeats,
            epochs=epochs,
            lr=lr,
            seed=seed,
            quick=quick,
        )
        with reported(debug):
            study.run(sparse_plan, out, as_json=as_json)
        return
    counts = given or (QUICK_WORKERS if quick else default_workers(usable_cores()))
    if delay is not None:
        checked("--delay", lambda: parse_delay(delay, counts[-1], seed))
    turns = {name: each.takes_turns for name, each in PROBLEMS.items()}
    disturbed = any(each is not None for each in (kill_rate, delay, max_staleness))
    plan = Plan(
        problems=checked("--problem", lambda: pick_problems(problem or (), turns, disturbed)),
        syncs=checked("--sync", lambda: pick(sync or (), asyncopt.syncs(), "sync")),
        workers=counts,
        repeats=repeats or 3,
        epochs=epochs,
        rule=checked("--rule", lambda: pick((rule,), asyncopt.rules(), "rule"))[0],
        lr=lr,
        seed=seed,
        mode=checked("--mode", lambda: pick((mode,), MODES, "mode"))[0],
        audit=audit,
        quick=quick,
        kill_rate=kill_rate,
        delay=delay,
        max_staleness=max_staleness,
    )
    if kill_rate is not None:
        checked("--kill-rate", lambda: check_kills(kill_rate, plan.mode))
    with reported(debug):
        measure.run(plan, out, as_json=as_json)


cli.command()(doctor)
cli.command()(staleness)
cli.command()(simulate)
