"""Errors for unpicklable objects name their path in the user's arguments."""

from __future__ import annotations

import collections
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from asyncopt.run.culprits import reason
from asyncopt.tasks import map_tasks

LOCK = threading.Lock()
CACHE = {"a": [1, {"lock": LOCK}]}
ERROR = TypeError("no")


class Holder:
    def __init__(self) -> None:
        self.inner = torch.nn.Linear(2, 2)
        self.inner.lock = LOCK  # type: ignore[assignment]

    def method(self) -> None: ...


class Hides:
    """Its own lock is no part of its pickle; another one is."""

    def __init__(self) -> None:
        self.lock, self.locks = LOCK, [LOCK]

    def __getstate__(self) -> dict[str, Any]:
        return {"locks": self.locks}


class Broken(Holder):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise OSError("on purpose")


class Entries(collections.UserDict[str, Any]):
    pass


@dataclass(frozen=True, slots=True)
class Frozen:
    first: int
    second: object


def closure(thing: object) -> Callable[[], object]:
    return lambda: thing


def of_another_module(function: Any) -> Any:
    function.__module__ = "nowhere"  # it is pickled with its global variables
    return function


@pytest.mark.parametrize(
    ("part", "path"),
    [
        (Holder(), ".inner.lock"),
        (Holder().method, ".__self__.inner.lock"),
        (Hides(), ".locks[0]"),
        (Frozen(1, [LOCK]), "its state[1][0]"),
        (Entries({"q": (LOCK,)}), ".data['q'][0]"),
        (closure(Holder()), "closure variable thing.inner.lock"),
        (closure(closure(LOCK)), "closure variable thing, closure variable thing"),
        (of_another_module(lambda: CACHE), "global variable CACHE['a'][1]['lock']"),
        (of_another_module(lambda lock=LOCK: lock), "its defaults[0]"),
        (functools.partial(closure(LOCK)), ".func, closure variable thing"),
        ({1: LOCK}, "[1]"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_path(part: object, path: str) -> None:
    assert reason(part, ERROR).startswith(path)
    assert reason(part, ERROR).endswith(": no")


@pytest.mark.parametrize("part", [LOCK, Broken(), [1, 2]], ids=["lock", "broken", "list"])
def test_without_a_path_it_is_the_error_alone(part: object) -> None:
    assert reason(part, ERROR) == "no"


def test_cycles_end() -> None:
    cycle: list[Any] = [LOCK]
    cycle.insert(0, cycle)
    assert reason(cycle, ERROR) in ("no", "[1]: no")


def test_map_tasks_names_the_path() -> None:
    with pytest.raises(TypeError, match=r"^fn: .* \(closure variable thing: cannot pickle"):
        map_tasks(closure(LOCK), [1], workers=1)
