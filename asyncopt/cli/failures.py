"""How a command ends when something goes wrong: one line on stderr and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from asyncopt.errors import AsyncoptError, DownloadError
from asyncopt.studies.errors import StudyError

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, what shells report for Ctrl-C


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Turn an exception into ``error: ...`` on stderr and an exit code; `debug` lets it through."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted: workers ended, nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as failure:
        if debug:
            raise
        typer.echo(f"error: {_one_line(failure)}", err=True)
        raise typer.Exit(FAILED) from None


def _one_line(failure: Exception) -> str:
    """First line of what went wrong, with the way to see the rest."""
    lines = [line for line in str(failure).splitlines() if line.strip()]
    text = lines[0] if lines else type(failure).__name__
    if isinstance(failure, StudyError | DownloadError):
        return text
    if not isinstance(failure, AsyncoptError | OSError):
        text = f"unexpected {type(failure).__name__}: {text}"
    return f"{text}; run again with --debug for the traceback"
