"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from asyncopt.studies.options import MODES

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON instead of tables.")
]
Out = Annotated[Path, typer.Option(help="Folder for results.json and report.html.")]
Repeats = Annotated[int, typer.Option(help="Runs of each.")]
Epochs = Annotated[
    int | None, typer.Option(show_default="by problem", help="Passes over the data.")
]
Lr = Annotated[float | None, typer.Option(show_default="by problem", help="Learning rate.")]
Seed = Annotated[int, typer.Option(help="Seed of data, weights and order.")]
Mode = Annotated[str, typer.Option(help=f"Kind of worker: {' or '.join(MODES)}.")]
Quick = Annotated[bool, typer.Option("--quick", help="Under a minute: less of everything.")]
