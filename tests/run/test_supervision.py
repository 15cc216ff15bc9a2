"""Runs that continue after the loss of workers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.errors import WorkerError
from asyncopt.run import launch

from . import jobs


def shared(*size: int) -> torch.Tensor:
    return torch.zeros(*size, dtype=torch.int64)


@contextmanager
def expect_warnings(*expected: str) -> Iterator[None]:
    """Exactly these warnings, in this order, each a part of its text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == len(expected), texts
    assert all(part in text for part, text in zip(expected, texts, strict=True)), texts
    # They point at the line that called launch.
    assert {warning.filename for warning in caught} <= {__file__}


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_worker_that_raises_is_replaced(mode: str) -> None:
    with expect_warnings(
        "Unlucky: boom; it is replaced in 0.1 s (restart 1 of 3)", "0.2 s (restart 2 of 3)"
    ):
        run = launch(jobs.stumble, (shared(2), 2), mode=mode, on_error="restart")
    assert run.results == [1, 3]
    assert run.restarts == (0, 2)
    assert [(loss.rank, loss.replaced, loss.batch) for loss in run.losses] == [(1, True, None)] * 2
    assert all("in inner_trouble" in loss.traceback for loss in run.losses)
    assert all(loss.cause.endswith("Unlucky: boom") for loss in run.losses)
    assert 0 <= run.losses[0].when < run.losses[1].when < run.elapsed
    assert str(run).splitlines()[1] == (
        "2 workers lost (rank 1 (2x)), 2 replaced; 0 batches interrupted, 0 locks repaired"
    )


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_when_the_restarts_are_used_up_the_last_failure_is_raised(mode: str) -> None:
    options: dict[str, Any] = {"mode": mode, "on_error": "restart", "retries": 1}
    with (
        expect_warnings("(restart 1 of 1)"),
        pytest.raises(WorkerError, match="boom; it had been replaced 1 times") as caught,
    ):
        launch(jobs.stumble, (shared(2), 2), **options)
    assert caught.value.rank == 1
    assert isinstance(caught.value.__cause__, jobs.Unlucky)
    assert "in inner_trouble" in caught.value.traceback


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_the_others_go_on(mode: str) -> None:
    with expect_warnings("the run goes on with 2 of 3 workers"):
        run = launch(jobs.stumble, (shared(3), 1), workers=3, mode=mode, on_error="continue")
    assert run.results == [1, None, 1]
    assert run.restarts == (0, 0, 0)
    assert [(loss.rank, loss.replaced) for loss in run.losses] == [(1, False)]


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_when_nobody_is_left_the_last_failure_is_raised(mode: str) -> None:
    with (
        expect_warnings("goes on with 1 of 2"),
        pytest.raises(WorkerError, match="; no worker is left"),
    ):
        launch(jobs.leave, ("sys.exit",), workers=2, mode=mode, on_error="continue")


@pytest.mark.parametrize("dispatch", ["dynamic", "static"])
def test_a_dead_workers_batch_is_handed_out_again_and_no_other(dispatch: str) -> None:
    """Counted by the workers themselves, in memory of their own."""
    examples = 60
    seen = shared(examples + 1)
    with expect_warnings(
        *[
            f"SIGKILL (signal 9); the kernel sends it when memory runs out; it is replaced "
            f"in 0.1 s (restart {n} of 3)"
            for n in (1, 2)
        ]
    ):
        run = launch(
            jobs.train_and_fall,
            (torch.arange(examples), seen, dispatch, 2),
            on_error="restart",
        )
    assert run.restarts == (0, 2)
    again = seen[:examples] - 2  # two epochs
    assert again.sum() == 2 * 2  # two examples of each of two batches
    assert again.min() == 0
    assert all(loss.batch is not None for loss in run.losses)


def test_what_is_left_of_a_worker_that_is_not_replaced_goes_to_the_others() -> None:
    examples = 60
    seen = shared(examples + 1)
    with expect_warnings("the run goes on with 2 of 3 workers"):
        run = launch(
            jobs.train_and_fall,
            (torch.arange(examples), seen, "dynamic", 1),
            workers=3,
            on_error="continue",
        )
    again = seen[:examples] - 2
    assert again.sum() == 2
    assert again.min() == 0
    assert run.losses[0].batch is not None


def test_a_replacement_walks_through_the_barriers_that_were_passed() -> None:
    met = shared(2)
    with expect_warnings("exited with code 5", "exited with code 5"):
        run = launch(jobs.meet_thrice, (met, shared(3)), on_error="restart")
    assert run.restarts == (0, 2)
    assert met.tolist() == [3, 1 + 1 + 3]


def test_barriers_without_the_lost() -> None:
    with expect_warnings("the run goes on with 2 of 3 workers"):
        run = launch(jobs.meet_without_the_lost, workers=3, on_error="continue")
    assert run.results == [0, None, 2]


@pytest.mark.parametrize("on_error", ["restart", "continue"])
def test_a_failure_before_fn_is_raised(on_error: str) -> None:
    with expect_warnings(), pytest.raises(WorkerError, match="could not unpickle fn and args"):
        launch(jobs.nothing, (jobs.Unwelcome(),), workers=1, on_error=on_error)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_replacements_take_the_store_slots_of_the_dead(mode: str) -> None:
    """There are slots for two workers and the launcher."""
    model = jobs.Bias(9)
    optimizer = asyncopt.SGD(model.parameters(), lr=1.0, sync="mutex")
    lives = shared(2)
    with expect_warnings(*[f"restart {n} of 4" for n in range(1, 5)]):
        run = launch(
            jobs.count_down_lives,
            (model, optimizer, lives, 5),
            mode=mode,
            on_error="restart",
            retries=4,
        )
    assert run.ledger.pushes == (1 + 5) * 5
    assert model.bias[0] == -30


@pytest.mark.slow
def test_a_stopped_worker_is_reported_once_and_goes_on() -> None:
    with expect_warnings(
        "stopped; SIGCONT resumes it) has made no progress for 2 s: 1 batches and barriers"
    ):
        run = launch(jobs.stand_still, (shared(2),), stall_timeout=2.0)
    assert run.losses == ()


@pytest.mark.slow
def test_pushes_are_progress() -> None:
    """Also in a loop of its own, without batches."""
    optimizer = asyncopt.SGD(jobs.Bias(3).parameters(), lr=1.0)
    with expect_warnings("no progress for 2 s: 1 batches and barriers and 7 pushes so far"):
        launch(jobs.stand_still, (shared(2), optimizer, 7), stall_timeout=2.0)


@pytest.mark.slow
def test_waiting_for_others_to_start_is_no_stall(tmp_path: Path) -> None:
    with expect_warnings():
        launch(jobs.nothing, (jobs.LateInOne(tmp_path / "mark", 4.0),), stall_timeout=2.0)
    assert (tmp_path / "mark").exists()
