"""Errors of studies: a bad option, a study that cannot run, a missing module."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from asyncopt._install import command
from asyncopt.errors import AsyncoptError


class StudyError(AsyncoptError, RuntimeError):
    """A study cannot run or its numbers are wrong; the message is ``what happened; remedy``."""


class OptionError(ValueError):
    """An option of a study has no meaning; the message is ``option: expected X, got Y``.

    Attributes:
        option: the name of the argument.
        text: the message without that name.
    """

    def __init__(self, option: str, text: str) -> None:
        super().__init__(f"{option}: {text}")
        self.option = option
        self.text = text


def require(modules: Iterable[str], wanted_by: str, extra: str = "cli") -> None:
    """Raise `StudyError` where one of `modules` is not installed; `extra` of asyncopt has them."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise StudyError(
            f"{wanted_by} needs {', '.join(missing)}; install it with: {command(extra)}"
        )
