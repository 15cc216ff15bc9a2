"""Faults in the calls by which checkpoints are written: death, errors, short writes.

They are put into the functions of `os`, one call at a time, and taken out again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

#: System calls of the writer, its own and those through shutil.
CALLS = ("open", "mkdir", "write", "fsync", "close", "rename", "scandir", "unlink", "rmdir")

Replacement = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextlib.contextmanager
def replaced(replacement: Replacement) -> Iterator[None]:
    """Route calls through ``replacement(name, original, args, kwargs)``."""
    originals = {name: getattr(os, name) for name in CALLS}

    def wrapper(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: replacement(name, original, args, kwargs)

    try:
        for name, original in originals.items():
            setattr(os, name, wrapper(name, original))
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)


class At:
    """Run an action at call number ``k``, and count all calls.

    Args:
        k: which call, from 0; -1: none.
        what: does it; gets the original function and its arguments.
    """

    def __init__(
        self,
        k: int,
        what: Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        self._k = k
        self._what = what
        self.count = 0
        self.name = ""

    def __call__(
        self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        at, self.count = self.count, self.count + 1
        if at != self._k:
            return original(*args, **kwargs)
        self.name = name
        return self._what(name, original, args, kwargs)


def die_before(
    name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    os._exit(9)


def die_after(
    name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    original(*args, **kwargs)
    os._exit(9)


def die_halfway(
    name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A write of the first half; any other call as a whole."""
    if name == "write":
        fd, data = args
        original(fd, data[: len(data) // 2])
        os._exit(9)
    return die_after(name, original, args, kwargs)


DEATHS = (die_before, die_after, die_halfway)


def fails(number: int) -> Callable[..., Any]:
    """The call fails with an errno; a close has closed nevertheless."""

    def fail(
        name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == "close":
            original(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    return fail
