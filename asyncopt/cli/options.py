"""Options that several commands have, and how wrong ones are told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

T = TypeVar("T")

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
]
Out = Annotated[Path, typer.Option(help="Folder for results.json and report.html.")]
Repeats = Annotated[
    int | None, typer.Option(min=1, max=1000, show_default="3", help="Runs of each.")
]
Epochs = Annotated[
    int | None,
    typer.Option(min=1, max=10_000, show_default="by problem", help="Passes over the data."),
]


def checked(option: str, parse: Callable[[], T]) -> T:
    """What `parse` returns; its ValueError becomes a usage error (exit code 2) of `option`."""
    try:
        return parse()
    except ValueError as wrong:
        raise typer.BadParameter(str(wrong), param_hint=option) from None
