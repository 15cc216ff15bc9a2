"""Daemonic processes cannot start children: the error names the remedy."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
import torch

import asyncopt

from . import jobs


def make_model() -> torch.nn.Module:
    return torch.nn.Linear(2, 2)


def cross_validate() -> object:
    data = torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64)
    return asyncopt.cross_validate(make_model, data, 2, workers=1)


CALLS: dict[str, Callable[[], object]] = {
    "launch": lambda: asyncopt.launch(jobs.nothing),
    "map_tasks": lambda: asyncopt.map_tasks(abs, [1]),
    "cross_validate": cross_validate,
}


def attempt(call: Callable[[], object], answer: Connection[Any, Any]) -> None:
    try:
        call()
    except BaseException as error:
        answer.send((type(error).__name__, str(error)))


@pytest.mark.parametrize("name", CALLS)
def test_an_error_names_the_remedy(name: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=attempt, args=(CALLS[name], theirs), daemon=True, name="Daemon-7"
    )
    with ours, theirs, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
        kind, message = ours.recv()
        process.join()
    process.close()
    assert kind == "RuntimeError"
    assert message.startswith(
        "workers: expected a process that may start others, got a daemonic one, Daemon-7; create "
        "it with daemon=False, or by concurrent.futures.ProcessPoolExecutor"
    )
    assert message.endswith("mode='thread'") == (name == "launch")
