"""Output and exit codes: 0, 1 for a failure, 2 for a bad option, 130 for Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer
from rich.console import Console

from asyncopt.errors import AsyncoptError, DownloadError
from asyncopt.report.terminal import WIDTH
from asyncopt.studies.errors import OptionError, StudyError
from asyncopt.studies.result import REPORT, RESULTS, Result

ResultT = TypeVar("ResultT", bound=Result[Any])

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C


def answer(
    study: Callable[..., ResultT],
    context: typer.Context,
    *,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> ResultT:
    """Run `study` with `options` and print its result.

    Args:
        study: a function of `asyncopt.studies`.
        context: of the command; its parameters have the names of the arguments of `study`.
        as_json: whether to print JSON instead of tables.
        debug: whether to let exceptions through.
        options: arguments of `study`.

    Raises:
        typer.Exit, typer.BadParameter: instead of any exception of `study`.
    """
    with _reported(context, debug):
        result = study(**options)
        _show(result, as_json=as_json, out=options.get("out"))
    return result


@contextmanager
def _reported(context: typer.Context, debug: bool) -> Iterator[None]:
    """Turn an exception into ``error: ...`` on stderr and an exit code; `debug` lets it through."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: workers ended, nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except OptionError as wrong:
        (option,) = (p.opts[0] for p in context.command.params if p.name == wrong.option)
        raise typer.BadParameter(wrong.text, param_hint=option) from None
    except Exception as failure:
        if debug:
            raise
        typer.echo(f"error: {_one_line(failure)}", err=True)
        raise typer.Exit(FAILED) from None


def _show(result: Result[Any], *, as_json: bool, out: Path | None) -> None:
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
