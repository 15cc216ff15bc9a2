"""Worker state in checkpoints: saved by workers, and restored in the right loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

import asyncopt
from asyncopt.errors import CheckpointError
from asyncopt.run import Worker
from asyncopt.run.board import Board
from asyncopt.run.checkpoint import worker_states as module
from asyncopt.run.checkpoint.worker_states import WorkerState, WorkerStates


def made() -> tuple[Any, Any]:
    optimizer = asyncopt.SGD([torch.zeros(3, requires_grad=True)], lr=0.5)
    return optimizer, lr_scheduler.ExponentialLR(optimizer, 0.5)


def rates(parts: tuple[Any, Any]) -> tuple[float, int]:
    return parts[0].param_groups[0]["lr"], parts[1].last_epoch


def handed_over(worker_states: WorkerStates, loop: int, scheduled: bool = True) -> list[float]:
    """What comes from the generator after worker 0 handed over, two epochs on."""
    parts = made()
    for _ in range(2):
        parts[0].step()
        parts[1].step()
    torch.rand(5)
    worker_state = WorkerState(worker_states, 0, (list(parts[: 1 + scheduled]),))
    worker_state.at(loop)
    worker_state.hand_over()
    return torch.rand(4).tolist()


def test_taken_back_in_the_same_loop_and_once() -> None:
    worker_states = WorkerStates()
    expected = handed_over(worker_states, loop=2)
    kept = worker_states.get(0)
    assert kept is not None
    worker_states.leave(0, kept)

    parts = made()
    worker_state = WorkerState(worker_states, 0, (list(parts),))
    for loop in (0, 0, 1):
        worker_state.at(loop)
    assert rates(parts) == (0.5, 0)
    worker_state.at(2)
    assert rates(parts) == (0.125, 2)
    assert torch.rand(4).tolist() == expected
    worker_state.at(2)
    assert torch.rand(4).tolist() != expected
    # Its replacement goes on from what the run has come to since.
    again = made()
    WorkerState(worker_states, 0, (list(again),)).at(2)
    assert rates(again) == (0.5, 0)


def test_on_the_way_to_its_place_a_worker_keeps_what_it_will_take_back() -> None:
    worker_states = WorkerStates()
    handed_over(worker_states, loop=2)
    kept = worker_states.get(0)
    assert kept is not None
    worker_states.leave(0, kept)
    worker_state = WorkerState(worker_states, 0, (list(made()),))
    worker_state.at(0)
    worker_states.put(0, b"")
    worker_state.hand_over()
    assert worker_states.get(0) == kept
    worker_state.at(2)
    torch.rand(1)
    worker_state.hand_over()
    assert worker_states.get(0) != kept


def test_a_replacement_takes_what_its_predecessor_did_not() -> None:
    worker_states = WorkerStates()
    handed_over(worker_states, loop=1)
    kept = worker_states.get(0)
    assert kept is not None
    worker_states.leave(0, kept)
    WorkerState(worker_states, 0, (list(made()),)).at(0)  # and dies
    parts = made()
    WorkerState(worker_states, 0, (list(parts),)).at(1)
    assert rates(parts) == (0.125, 2)


def test_rates_that_no_scheduler_in_args_sets_are_left_to_fn() -> None:
    """A scheduler made by fn starts from the first rate and steps to the run's position."""
    worker_states = WorkerStates()
    handed_over(worker_states, loop=0, scheduled=False)
    kept = worker_states.get(0)
    assert kept is not None
    worker_states.leave(0, kept)
    optimizer, _ = made()
    WorkerState(worker_states, 0, ([optimizer],)).at(0)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_of_other_objects_is_refused() -> None:
    worker_states = WorkerStates()
    handed_over(worker_states, loop=0)
    kept = worker_states.get(0)
    assert kept is not None
    worker_states.leave(0, kept)
    optimizer, _ = made()
    worker_state = WorkerState(worker_states, 0, (optimizer,))
    with pytest.raises(CheckpointError, match="expected 1 schedulers, as in the checkpoint"):
        worker_state.at(0)


def test_slots_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    worker_states = WorkerStates()
    for rank in range(3):
        assert worker_states.get(rank) is None
        worker_states.put(rank, b"kept by %d" % rank)
        worker_states.leave(rank, b"left for %d" % rank)
    worker_states.put(1, b"short")
    assert [worker_states.get(rank) for rank in range(4)] == [
        b"kept by 0",
        b"short",
        b"kept by 2",
        None,
    ]
    assert worker_states.collect(1) == b"left for 1"
    worker_states.discard(1)
    assert worker_states.collect(1) is None
    monkeypatch.setattr(module, "ROOM", 100)
    worker_states.put(0, bytes(88))
    with pytest.raises(CheckpointError, match="of less than 100 bytes, got 89"):
        worker_states.put(0, bytes(89))


def parked(board: Board, act: Callable[[], object]) -> None:
    """Call ``act`` in a pause, then release the worker."""
    deadline = time.monotonic() + 60
    while board.parked != [0] and time.monotonic() < deadline:
        time.sleep(0.001)
    act()
    board.resume()


@pytest.mark.parametrize("loop", [0, 1, 2])
def test_the_place_is_the_loop_that_is_entered(loop: int) -> None:
    """A pause may come between two loops: work that fn does there must not be repeated."""
    board, worker_states = Board(1), WorkerStates()
    worker = Worker(0, 1, lambda timeout: None, board=board)
    worker_state = WorkerState(worker_states, 0, ())
    worker.on_take, worker.on_park = worker_state.at, worker_state.hand_over
    seen: list[Any] = []
    for number in range(3):
        if number == loop:
            board.pause()
            watcher = threading.Thread(
                target=parked, args=(board, lambda: seen.append(worker_states.get(0)))
            )
            watcher.start()
        for _ in worker.batches(torch.zeros(2), batch_size=1):
            pass
        if number == loop:
            watcher.join()
    assert module._unpack(seen[0])[0]["loop"] == loop
