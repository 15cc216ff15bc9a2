"""Tasks and folds draw random numbers that do not depend on the workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncopt.run import random_states
from asyncopt.tasks import map_tasks
from tests.run import draws
from tests.run.draws import Draws, equal_fields

from .reference import validate

TASKS = 4


@pytest.fixture(autouse=True)
def generators() -> Iterator[None]:
    """Leaves this process's generators as they were."""
    before = random_states.capture()
    yield
    random_states.restore(before)


def drawn(workers: int, **options: Any) -> list[Draws]:
    results = map_tasks(draws.draw_in_task, range(TASKS), workers=workers, pin=False, **options)
    return [result.value for result in results]


def test_tasks_differ_and_do_not_depend_on_the_workers() -> None:
    first = drawn(1, seed=5)
    pairs = itertools.combinations([*first, *drawn(1, seed=6)], 2)
    assert [names for one, other in pairs if (names := equal_fields(one, other))] == []
    assert drawn(3, seed=5) == first


def test_the_root_comes_from_torchs_generator() -> None:
    torch.manual_seed(3)
    calls = [drawn(2), drawn(1)]
    after = torch.rand(4)
    assert calls[0] != calls[1]
    torch.manual_seed(3)
    assert [drawn(1), drawn(2)] == calls
    torch.manual_seed(3)
    for _ in calls:
        torch.empty((), dtype=torch.int64).random_()
    assert torch.equal(after, torch.rand(4))


def test_a_task_that_is_started_again_draws_the_same(tmp_path: Path) -> None:
    results = map_tasks(
        draws.draw_after_a_death, range(TASKS), (tmp_path,), workers=2, seed=5, pin=False
    )
    assert [result.attempts for result in results] == [2] * TASKS
    assert [result.value for result in results] == drawn(1, seed=5)


def test_a_wrong_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^seed: expected an integer >= 0, got -1"):
        drawn(1, seed=-1)


def test_folds_of_other_seeds_are_other_folds() -> None:
    folds = [(range(9), range(9, 14))] * 2
    seeds = (0, 1, 2**32, 2**64)
    metrics = {"noise": draws.RandomOffset()}
    results = [validate(folds=folds, metrics=metrics, epochs=1, seed=seed) for seed in seeds]
    every = [fold for result in results for fold in result.folds]
    assert len({fold.scores["noise"] for fold in every}) == len(every)
    assert len({fold.epochs[0].train_loss for fold in every}) == len(every)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, "^seed: expected an integer >= 0, got -1"),
        (1.5, "^seed: expected an integer >= 0, got 1.5"),
        (None, "^seed: expected an integer >= 0, got None"),
        (2**32, "^seed: expected at most 4294967295 where folds is a number, .* got 4294967296; "),
    ],
)
def test_a_wrong_seed_of_folds_is_refused(seed: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        validate(folds=2, seed=seed)


def test_folds_do_not_depend_on_the_workers() -> None:
    before = random_states.capture()
    metrics = {"noise": draws.RandomOffset()}
    scores = [
        [fold.scores for fold in validate(metrics=metrics, workers=workers).folds]
        for workers in (1, 3)
    ]
    assert scores[0] == scores[1]
    assert random_states.capture() == before
