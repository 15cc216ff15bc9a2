"""Old names of arguments, accepted for one version."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from asyncopt.warn import warn_caller

__all__ = ["renamed"]

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def renamed(**names: str) -> Callable[[Callable[Given, Returned]], Callable[Given, Returned]]:
    """Decorate a function whose keyword arguments have new names.

    An old name works and issues a DeprecationWarning. Its signature, which `inspect` and type
    checkers see, has the new names only.

    Args:
        names: the new name of each old one.
    """

    def decorate(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
        @functools.wraps(function)
        def call(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
            for old in names.keys() & kwargs.keys():
                _rename(function.__name__, old, names[old], kwargs)
            return function(*args, **kwargs)

        return call

    return decorate


def _rename(function: str, old: str, new: str, kwargs: dict[str, Any]) -> None:
    if new in kwargs:
        raise TypeError(f"{function}: expected {new}= alone, got {old}= too, its old name")
    warn_caller(f"{function}: {old}= is now {new}=; write {new}=", DeprecationWarning)
    kwargs[new] = kwargs.pop(old)
