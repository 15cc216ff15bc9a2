"""Output and exit codes: 0, 1 for a failure, 2 for a bad option, 130 for Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from asyncopt.errors import AsyncoptError, DownloadError
from asyncopt.report.terminal import WIDTH
from asyncopt.studies.errors import OptionError, StudyError
from asyncopt.studies.result import REPORT, RESULTS, Result

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C
OPTIONS = {  # whose name on the command line differs from that of the argument
    "cases": "--case",
    "computes": "--compute",
    "delays": "--delay",
    "problems": "--problem",
    "schedules": "--schedule",
    "syncs": "--sync",
}


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn an exception into ``error: ...`` on stderr and an exit code; `debug` lets it through."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: workers ended, nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except OptionError as wrong:
        option = OPTIONS.get(wrong.option, f"--{wrong.option.replace('_', '-')}")
        raise typer.BadParameter(wrong.text, param_hint=option) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as failure:
        if debug:
            raise
        typer.echo(f"error: {_one_line(failure)}", err=True)
        raise typer.Exit(FAILED) from None


def show(result: Result[Any], *, as_json: bool, out: Path | None = None) -> None:
    """Print tables or JSON on stdout, and the files in the folder `out` on stderr."""
    if as_json:
        typer.echo(result.json())
    else:
        # Into a pipe or a file the tables go as wide as they are.
        result.print(Console() if sys.stdout.isatty() else Console(width=WIDTH))
    if out is not None:
        for kind, name in (("report", REPORT), ("numbers", RESULTS)):
            typer.echo(f"{kind}: {out / name}", err=True)


def _one_line(failure: Exception) -> str:
    """First line of the message, with the way to see the rest."""
    lines = [line for line in str(failure).splitlines() if line.strip()]
    text = lines[0] if lines else type(failure).__name__
    if isinstance(failure, StudyError | DownloadError):
        return text
    if not isinstance(failure, AsyncoptError | OSError):
        text = f"unexpected {type(failure).__name__}: {text}"
    return f"{text}; run again with --debug for the traceback"
