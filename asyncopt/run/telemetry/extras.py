"""Packages that only some of a run's observers need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from asyncopt._install import command

__all__ = ["needed"]


@contextmanager
def needed(argument: str, package: str) -> Iterator[None]:
    """Context for the import of an optional package; its error names the install command.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{argument}: expected the package {package}, got {error}; {command('telemetry')}",
            name=error.name,
        ) from error
