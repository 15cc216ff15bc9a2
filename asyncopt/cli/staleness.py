"""The options of ``asyncopt staleness``. Bad ones exit with 2."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import asyncopt
from asyncopt.cli.failures import reported
from asyncopt.cli.options import AsJson, Debug, Epochs, Out, Repeats, checked
from asyncopt.studies.delayed import study
from asyncopt.studies.delayed.plan import (
    NO_BOUND,
    SCALED,
    SCHEDULES,
    Plan,
    default_delays,
    parse_bound,
)
from asyncopt.studies.delays import GRAMMAR, parse_delay
from asyncopt.studies.dense.plan import MODES, MOST_WORKERS, pick

SYNCS = ("hogwild", "mutex", "leashed")  # any mix of versions, one at a time, one whole version
QUICK_SYNCS = ("hogwild", "leashed")
QUICK_SCHEDULES = ("constant", "cosine", SCALED)


def staleness(
    problem: Annotated[
        list[str] | None,
        typer.Option(show_default="all", help=f"Repeatable: {', '.join(study.SUBJECTS)}."),
    ] = None,
    delay: Annotated[
        list[str] | None,
        typer.Option(
            show_default="none, 2 ms each, and 20 ms for the last worker alone",
            help=f"What workers sleep before a push, repeatable: {GRAMMAR}.",
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
            help="Of the learning rate, repeatable: "
            + "; ".join(f"{name} ({meaning})" for name, meaning in SCHEDULES.items())
            + ".",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=MOST_WORKERS, help="Workers that train at once.")
    ] = 4,
    repeats: Repeats = None,
    epochs: Epochs = None,
    lr: Annotated[
        float | None, typer.Option(min=0.0, show_default="by problem", help="Learning rate.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of data, weights and order.")] = 0,
    mode: Annotated[str, typer.Option(help=f"What a worker is: {' or '.join(MODES)}.")] = "process",
    out: Out = Path("asyncopt-staleness"),
    as_json: AsJson = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Under a minute: fewer syncs, schedules and epochs.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train under injected delays and show what stale gradients do, beside plain serial SGD."""
    delays = tuple(delay or default_delays(workers))
    for text in delays:
        checked("--delay", lambda text=text: parse_delay(text, workers, seed))  # type: ignore[misc]
    bounds = tuple(
        checked("--max-staleness", lambda text=text: parse_bound(text))  # type: ignore[misc]
        for text in max_staleness or (NO_BOUND,)
    )
    plan = Plan(
        problems=checked("--problem", lambda: pick(problem or (), (*study.SUBJECTS,), "problem")),
        delays=tuple(dict.fromkeys(delays)),
        bounds=tuple(dict.fromkeys(bounds)),
        syncs=checked(
            "--sync",
            lambda: pick(sync or (QUICK_SYNCS if quick else SYNCS), asyncopt.syncs(), "sync"),
        ),
        schedules=checked(
            "--schedule",
            lambda: pick(schedule or (QUICK_SCHEDULES if quick else ()), (*SCHEDULES,), "schedule"),
        ),
        workers=workers,
        repeats=repeats or 3,
        epochs=epochs,
        lr=lr,
        seed=seed,
        mode=checked("--mode", lambda: pick((mode,), MODES, "mode"))[0],
        quick=quick,
    )
    with reported(debug):
        study.run(plan, out, as_json=as_json)
