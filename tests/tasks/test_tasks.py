"""map_tasks: order, errors, deaths, deadlines, and memory."""

from __future__ import annotations

import functools
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from asyncopt.errors import RunTimeout, TaskError, WorkerError
from asyncopt.tasks import map_tasks

from . import jobs


@pytest.mark.slow
def test_every_task_comes_to_its_end_in_order(tmp_path: Path) -> None:
    tasks = ["a", "raise", "die once", "b", "exit", "die always", "linger", "lock", "c", "d"]
    results = map_tasks(jobs.task, tasks, (tmp_path,), workers=2, timeout=5.0, on_error="return")
    assert [result.index for result in results] == list(range(len(tasks)))
    ended = dict(zip(tasks, results, strict=True))
    for task in ("a", "b", "c", "d", "die once"):
        assert ended[task].error is None
        assert ended[task].value[0] == task
    attempts = {task: result.attempts for task, result in ended.items() if result.attempts > 1}
    assert attempts == {"die once": 2, "die always": 2}
    assert len({ended[task].value[1] for task in "abcd"}) <= 4  # workers are reused

    raised = ended["raise"].error
    assert isinstance(raised, TaskError)
    assert raised.task == 1
    assert raised.message == f"task 1: worker {raised.rank} raised tests.tasks.jobs.Unlucky: boom"
    assert "in inner_trouble" in raised.traceback
    assert isinstance(raised.__cause__, jobs.Unlucky)
    with pytest.raises(TaskError, match=r"^task 1: "):
        ended["raise"].value  # noqa: B018 - reading it raises

    messages = {task: str(result.error) for task, result in ended.items() if result.error}
    assert "called sys.exit(3)" in messages["exit"]
    assert "was killed by SIGSEGV" in messages["die always"]
    assert messages["die always"].endswith("; started 2 times")
    assert "did not end within 5 s" in messages["linger"]
    assert isinstance(getattr(ended["linger"].error, "__cause__", None), RunTimeout)
    assert "expected an object that pickle can send" in messages["lock"]


def test_the_first_error_ends_all(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"^task 1: worker \d raised .*boom") as caught:
        map_tasks(jobs.task, ["linger", "raise"], (tmp_path,), workers=2)
    assert isinstance(caught.value.__cause__, jobs.Unlucky)


def test_workers_have_cores_of_their_own(tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    facts = map_tasks(jobs.task, ["facts"] * len(cores), (tmp_path,))
    places = [facts.value[2] for facts in facts]
    assert all(len(place) == 1 for place in places)
    assert all(result.value[:2] == (1, "1") for result in facts)


def test_the_data_are_in_memory_once(tmp_path: Path) -> None:
    size = 8 << 20  # float32: 32 MiB each
    tensor, array = torch.ones(size), np.full(size, 2.0, dtype=np.float32)
    results = map_tasks(jobs.touch_all, range(2), (tensor, array, tmp_path), workers=2)
    (sums, sizes, first), (other_sums, other_sizes, second) = (r.value for r in results)
    assert first != second
    assert sums == other_sums == (size, 2.0 * size)
    for resident, share in (*sizes, *other_sizes):
        assert resident >= 4 * size
        assert share < 0.4 * resident  # this process maps it, and two workers do
    assert tensor.is_shared()
    assert tensor[0] == 7
    assert array[0] == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["die afterwards", "stop afterwards"])
def test_a_worker_that_ends_after_its_result_costs_no_other_task_a_try(
    how: str, tmp_path: Path
) -> None:
    """The next task was handed to a worker that never began it."""
    tasks = [how, "a", how, "b", "c"]
    results = map_tasks(jobs.task, tasks, (tmp_path,), workers=1, retries=0, timeout=5.0)
    assert [result.value[0] for result in results] == tasks
    assert [result.attempts for result in results] == [1] * len(tasks)
    first, *middle, last = (result.value[1] for result in results)
    assert middle[0] == middle[1]
    assert len({first, middle[0], last}) == 3


def test_workers_that_end_before_they_begin_a_task() -> None:
    with pytest.raises(WorkerError, match=r"SIGKILL.*; 5 workers in a row ended before they began"):
        map_tasks(jobs.task, [jobs.EndsWhenReady()], workers=1, retries=100)


def test_no_tasks() -> None:
    assert map_tasks(jobs.task, []) == []


def test_a_worker_that_cannot_start() -> None:
    with pytest.raises(WorkerError, match="could not unpickle fn, tasks and data: ") as caught:
        map_tasks(jobs.task, [jobs.NotHere()], workers=1)
    assert isinstance(caught.value.__cause__, jobs.Unlucky)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": 3}, "fn: expected a function, got int"),
        ({"data": [1]}, r"data: expected a tuple, got list; for one item write data=\(item,\)"),
        ({"tasks": 5}, "tasks: expected a list or another iterable, got int"),
        ({"on_error": "ignore"}, "on_error: expected 'raise' or 'return', got 'ignore'"),
        ({"retries": -1}, "retries: expected an integer >= 0, got -1"),
        ({"workers": 0}, "workers: expected an integer >= 1, got 0"),
        ({"timeout": 0}, "timeout: expected seconds > 0, got 0"),
        ({"fn": threading.Lock().__enter__}, "fn: expected an object that pickle can send"),
        ({"tasks": [threading.Lock()]}, "tasks: expected an object that pickle can send"),
        ({"data": (iter("abc"), threading.Lock())}, "data: expected an object that pickle"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    fine: dict[str, Any] = {"fn": jobs.task, "tasks": ["a"]}
    with pytest.raises((TypeError, ValueError), match=message):
        map_tasks(**fine | arguments)


def test_partial_functions_are_fine(tmp_path: Path) -> None:
    (result,) = map_tasks(functools.partial(jobs.task, notes=tmp_path), ["a"], workers=1)
    assert result.value[0] == "a"
