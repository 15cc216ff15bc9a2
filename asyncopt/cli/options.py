"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import asyncopt
from asyncopt.studies.options import MODES


def repeatable(option: str, names: Iterable[str], default: str = "all", between: str = ", ") -> Any:
    """An option that may be given several times, each with one of `names`."""
    return typer.Option(option, show_default=default, help=f"Repeatable: {between.join(names)}.")


Names = list[str] | None

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
]
Out = Annotated[Path, typer.Option(help="Folder for results.json and report.html.")]
Syncs = Annotated[Names, repeatable("--sync", asyncopt.syncs())]
Repeats = Annotated[int, typer.Option(help="Runs of each.")]
Epochs = Annotated[
    int | None, typer.Option(show_default="by problem", help="Passes over the data.")
]
Rule = Annotated[str, typer.Option(help=f"Update rule: {', '.join(asyncopt.rules())}.")]
Lr = Annotated[float | None, typer.Option(show_default="by problem", help="Learning rate.")]
Seed = Annotated[int, typer.Option(help="Seed of data, weights and order.")]
Mode = Annotated[str, typer.Option(help=f"Kind of worker: {' or '.join(MODES)}.")]
Quick = Annotated[bool, typer.Option("--quick", help="Under a minute: less of everything.")]
