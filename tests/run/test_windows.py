"""Batches and pushes: a batch is done when a push that followed it has landed, not before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.run import Worker, launch, windows
from asyncopt.run.board import Board

BOTH = pytest.mark.parametrize("dispatch", ["static", "dynamic"])
WINDOW = 4  # batches whose gradients are accumulated


def shared(count: int = 1) -> list[Any]:
    """Optimizers in stores of their own."""
    found = []
    for _ in range(count):
        weight = torch.zeros(3, requires_grad=True)
        found.append(asyncopt.SGD([weight], lr=1.0).share_memory(2))
    return found


def push(optimizer: Any, value: float = 1.0) -> None:
    for param in optimizer.param_groups[0]["params"]:
        param.grad = torch.full_like(param, value)
    optimizer.step()


def worker(board: Board, optimizers: list[Any], rank: int = 0) -> Worker:
    return Worker(rank, board.workers, lambda timeout: None, board=board, optimizers=optimizers)


def loop(one: Worker, data: Any = 12, **options: Any) -> Iterator[int]:
    """Batches of one example each, as numbers."""
    data = torch.arange(data) if isinstance(data, int) else data
    options = {"batch_size": 1, "shuffle": False, **options}
    return (int(batch) for batch in one.batches(data, **options))


def left(board: Board, optimizers: list[Any], loops: int = 0, **options: Any) -> list[int]:
    """Batches that a replacement of worker 0 gets in the loop after ``loops`` others."""
    board.leave(0)
    again = worker(board, optimizers)
    again._rounds = loops
    return list(loop(again, **options))


@BOTH
def test_a_window_comes_again_until_its_push_and_not_after(dispatch: str) -> None:
    optimizers, board = shared(), Board(1)
    for first, taken in ((0, 6), (4, 2), (4, 3), (4, 8)):  # each life is killed after its last
        got = loop(worker(board, optimizers), dispatch=dispatch)
        for count in range(1, taken + 1):
            assert next(got) == first + count - 1
            if count % WINDOW == 0:
                push(optimizers[0])
        board.leave(0)
    assert left(board, optimizers, dispatch=dispatch) == []


@BOTH
def test_a_batch_is_done_at_its_push(dispatch: str) -> None:
    optimizers, board = shared(), Board(1)
    got = loop(worker(board, optimizers), dispatch=dispatch)
    for _ in range(3):
        next(got)
        push(optimizers[0])
    assert left(board, optimizers, dispatch=dispatch) == list(range(3, 12))


@BOTH
def test_a_skipped_push_ends_a_window(dispatch: str) -> None:
    optimizers, board = shared(), Board(1)
    got = loop(worker(board, optimizers), dispatch=dispatch)
    next(got), next(got)
    with pytest.warns(RuntimeWarning, match="the push was skipped"):
        push(optimizers[0], float("nan"))
    assert left(board, optimizers, dispatch=dispatch) == list(range(2, 12))


def test_a_push_that_fails_ends_none() -> None:
    optimizers, board = shared(), Board(1)
    got = loop(worker(board, optimizers))
    next(got), next(got)
    optimizers[0].param_groups[0]["params"][0].grad = None
    with pytest.raises(RuntimeError, match="no closure"):
        optimizers[0].step(lambda: (_ for _ in ()).throw(RuntimeError("no closure")))
    assert left(board, optimizers) == list(range(12))


@BOTH
def test_several_optimizers(dispatch: str) -> None:
    """Done at once when all have pushed; after a push of some, when the next batch is taken."""
    for steps, rest in (([0, 1], 1), ([0], 0), ([1, 0], 1)):
        optimizers, board = shared(2), Board(1)
        got = loop(worker(board, optimizers), dispatch=dispatch)
        next(got)
        for index in steps:
            push(optimizers[index])
        assert left(board, optimizers, dispatch=dispatch)[0] == rest
    optimizers, board = shared(2), Board(1)
    got = loop(worker(board, optimizers), dispatch=dispatch)
    for _ in range(3):
        next(got)
        push(optimizers[0])  # the other one is never stepped
    assert left(board, optimizers, dispatch=dispatch)[0] == 2


def test_pushes_of_some_rows_end_a_window_with_the_next_batch() -> None:
    weight = torch.zeros(3, 2, requires_grad=True)
    optimizers: list[Any] = [asyncopt.SGD([weight], lr=1.0).share_memory(2)]
    for taken, rest in ((1, 0), (2, 1)):
        board = Board(1)
        got = loop(worker(board, optimizers))
        for _ in range(taken):
            next(got)
            optimizers[0].step_rows(weight, torch.tensor([1]), torch.ones(1, 2))
        assert left(board, optimizers)[0] == rest


@BOTH
def test_a_loop_without_pushes_begins_anew_and_is_over_with_the_next(dispatch: str) -> None:
    """As evaluation has it: the sums of a worker that died died with it."""
    optimizers = shared()
    board = Board(1)
    got = loop(worker(board, optimizers), dispatch=dispatch)
    assert [next(got) for _ in range(5)] == list(range(5))
    assert left(board, optimizers, dispatch=dispatch) == list(range(12))

    board = Board(1)
    one = worker(board, optimizers)
    assert len(list(loop(one, dispatch=dispatch))) == 12
    next(loop(one, dispatch=dispatch))
    assert left(board, optimizers, dispatch=dispatch) == []


@BOTH
def test_what_is_left_at_the_end_of_a_loop_is_done_by_the_next_push(dispatch: str) -> None:
    for pushed, returned, rest in (
        (False, False, [8, 9, 10, 11]),
        (True, False, []),
        (False, True, []),
    ):
        optimizers, board = shared(), Board(1)
        one = worker(board, optimizers)
        for number in loop(one, dispatch=dispatch):
            if number == 7:
                push(optimizers[0])
        if pushed:
            push(optimizers[0])
        one.retire(returned=returned)
        assert left(board, optimizers, dispatch=dispatch) == rest


@BOTH
def test_a_loop_around_another_keeps_its_batch(dispatch: str) -> None:
    optimizers, board = shared(), Board(1)
    one = worker(board, optimizers)
    outer = loop(one, dispatch=dispatch)
    for _ in range(2):
        next(outer)
        for _ in loop(one, 3, dispatch=dispatch):
            push(optimizers[0])
    assert left(board, optimizers, dispatch=dispatch) == list(range(1, 12))


@BOTH
def test_without_optimizers_a_batch_is_done_with_the_next(dispatch: str) -> None:
    board = Board(1)
    got = loop(worker(board, []), dispatch=dispatch)
    assert [next(got) for _ in range(5)] == list(range(5))
    assert left(board, [], dispatch=dispatch) == list(range(4, 12))


def test_survivors_take_the_window_of_a_worker_that_is_not_replaced() -> None:
    optimizers, board = shared(2), Board(3)
    dead = loop(worker(board, optimizers[:1], 0), dispatch="dynamic")
    alive = loop(worker(board, optimizers[1:], 1), dispatch="dynamic")
    assert [next(dead), next(alive), next(dead), next(dead)] == [0, 1, 2, 3]
    board.abandon(0)
    push(optimizers[1])
    got = []
    for number in alive:
        got.append(number)
        push(optimizers[1])
    assert got == [0, 2, 3, *range(4, 12)]


@BOTH
def test_more_than_a_worker_keeps(dispatch: str) -> None:
    optimizers, board = shared(), Board(1)
    got = loop(worker(board, optimizers), 3000, dispatch=dispatch)
    for _ in range(1026):  # with one more than 1,024 beside the one in hand, those before are done
        next(got)
    assert left(board, optimizers, data=3000, dispatch=dispatch) == list(range(1025, 3000))


def paused(
    board: Board, one: Worker, go_on: Callable[[], object], got: Iterator[int]
) -> list[list[list[Any]]]:
    """The claims at each park while ``go_on`` is called with every batch until the end."""
    seen: list[list[list[Any]]] = []

    def on_park() -> None:
        seen.append(board.positions()["claims"])
        board.resume()

    one.on_park = on_park
    board.pause()
    for _ in got:
        go_on()
    return seen


@BOTH
def test_a_paused_worker_ends_its_window_first(
    dispatch: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a resumed run would repeat it with other random numbers."""
    monkeypatch.setattr(windows, "PATIENCE", 600.0)
    optimizers, board, count = shared(), Board(1), 0
    one = worker(board, optimizers)
    got = loop(one, dispatch=dispatch)

    def step() -> None:
        nonlocal count
        count += 1
        if count % WINDOW == 0:
            push(optimizers[0])

    for _ in range(5):
        next(got)
        step()
    assert paused(board, one, step, got)[0] == [[0, 0, "done", 7]]


@BOTH
def test_a_paused_worker_keeps_a_window_that_it_cannot_measure(dispatch: str) -> None:
    optimizers, board = shared(), Board(1)
    one = worker(board, optimizers)
    got = loop(one, dispatch=dispatch)
    next(got), next(got)
    claims = paused(board, one, lambda: None, got)[0]
    assert claims == [[0, 0, "held", 0], [0, 0, "held", 1]]
    resumed = Board(1)
    positions = board.positions() | {"claims": claims, "rounds": [[0, 2]]}
    resumed.restore(positions)
    assert resumed.positions()["claims"] == claims
    assert list(loop(worker(resumed, shared()), dispatch=dispatch)) == list(range(12))


# --- With a real process that is killed


def accumulate(
    worker: Worker, model: torch.nn.Module, optimizer: Any, data: torch.Tensor, note: Path
) -> None:
    """Gradients of 4 batches for each step; the first life is killed within a window."""
    optimizer.zero_grad()
    for count, (x, y) in enumerate(worker.batches((data, data.sum(1)), batch_size=2), 1):
        (model(x).squeeze(1) - y).square().sum().backward()
        if count % WINDOW == 0:
            optimizer.step()
            optimizer.zero_grad()
        if count == 2 * WINDOW + 2 and not note.exists():
            note.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_within_a_window_loses_nothing_of_it(tmp_path: Path) -> None:
    def made() -> tuple[torch.nn.Linear, Any, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        model = torch.nn.Linear(4, 1, bias=False)
        model.weight.data = torch.randn(1, 4, generator=generator)
        optimizer = asyncopt.SGD(model.parameters(), lr=0.01, sync="mutex")
        return model, optimizer, torch.randn(32, 4, generator=generator)

    model, optimizer, data = made()
    note = tmp_path / "killed"
    with pytest.warns(RuntimeWarning, match="worker 0 was killed by SIGKILL"):
        run = launch(
            accumulate, (model, optimizer, data, note), workers=1, on_error="restart", timeout=120
        )
    assert run.ledger.pushes == 4
    # In float64, by hand.
    reference, _, _ = made()
    order = torch.cat(list(worker(Board(1), []).batches(torch.arange(32), 2)))
    w, x = reference.weight.detach().double(), data.double()
    for part in order.split(2 * WINDOW):
        residual = x[part] @ w.T - x[part].sum(1, keepdim=True)
        w = w - 0.01 * (2 * residual * x[part]).sum(0)
    torch.testing.assert_close(model.weight.detach().double(), w, rtol=1e-5, atol=1e-6)
