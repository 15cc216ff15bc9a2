"""The command line: one typer application of all commands."""

from __future__ import annotations

from typing import Annotated

import typer

import asyncopt
from asyncopt.cli.compare import compare
from asyncopt.cli.compare_sparse import compare_sparse
from asyncopt.cli.doctor import doctor
from asyncopt.cli.simulate import simulate
from asyncopt.cli.staleness import staleness

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


for command in (compare, compare_sparse, staleness, simulate, doctor):
    cli.command()(command)
