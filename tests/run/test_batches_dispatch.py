"""Dispatch of batches: dynamic and static, replacements, loops left early, pauses."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncopt.run import Worker, batches, launch
from asyncopt.run.board import Board

from . import loops

BOTH = pytest.mark.parametrize("dispatch", ["static", "dynamic"])


def worker(board: Board, rank: int = 0) -> Worker:
    return Worker(rank, board.workers, lambda timeout: None, board=board)


def numbers(batches: Iterator[torch.Tensor]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def serial(data: torch.Tensor, batch_size: int, **options: Any) -> list[list[int]]:
    return numbers(worker(Board(1)).batches(data, batch_size, **options))


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_dynamic_batches_are_those_of_one_worker_in_its_order(
    shuffle: bool, drop_last: bool
) -> None:
    options: dict[str, Any] = {"epochs": 3, "shuffle": shuffle, "drop_last": drop_last, "seed": 4}
    data = torch.arange(23)
    expected = serial(data, 4, **options)
    board = Board(3)
    options["dispatch"] = "dynamic"
    shares = [worker(board, rank).batches(data, 4, **options) for rank in (0, 2)]
    # Two workers, one twice as fast; the third never comes.
    got = [next(shares[turn % 3 // 2]).tolist() for turn in range(len(expected))]
    assert got == expected
    assert all(next(loop, None) is None for loop in shares)


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_every_batch_goes_to_one_worker(mode: str) -> None:
    data = torch.arange(200)
    run = launch(loops.collect, (data,), workers=3, mode=mode)
    expected = serial(data, 3, epochs=4, seed=9)
    assert Counter(map(tuple, chain(*run.results))) == Counter(map(tuple, expected))


@BOTH
def test_a_replacement_goes_on_with_the_unfinished_batch(dispatch: str) -> None:
    data, board = torch.arange(80), Board(2)
    share = serial(data, 4)[:: 2 if dispatch == "static" else 1]
    got = []
    for life in range(3):  # each dies in its third batch
        loop = worker(board).batches(data, 4, dispatch=dispatch)
        lived = [next(loop).tolist() for _ in range(3)]
        assert lived[2] == share[2 * (life + 1)]
        got += lived[:2]
        board.leave(0)
        del loop  # after the death, as when a traceback has kept it
    assert got + numbers(worker(board).batches(data, 4, dispatch=dispatch)) == share


@BOTH
def test_a_killed_worker_s_batch_is_handed_out_again_and_no_other(
    dispatch: str, tmp_path: Path
) -> None:
    data, notes = torch.arange(60), tmp_path / "notes"
    with pytest.warns(RuntimeWarning, match="worker 1 was killed by SIGKILL"):
        launch(loops.note_batches, (data, notes, dispatch), workers=2, on_error="restart")
    lines = [line.split(" ", 1) for line in notes.read_text().splitlines()]
    third = [batch for rank, batch in lines if rank == "1"][2:4]
    assert third[0] == third[1]  # the replacement's first
    got = Counter(batch for _, batch in lines)
    assert got == Counter([*map(str, serial(data, 3)), third[0]])


@BOTH
def test_a_share_without_a_worker_is_reported(dispatch: str, tmp_path: Path) -> None:
    data, notes = torch.arange(60), tmp_path / "notes"
    with pytest.warns(RuntimeWarning, match="worker 1 was killed by SIGKILL") as caught:
        launch(loops.note_batches, (data, notes, dispatch), workers=2, on_error="continue")
    (message,) = (str(each.message) for each in caught)
    rest = "the rest of its batches is not trained, as they were dealt out by dispatch='static'"
    assert (rest in message) == (dispatch == "static")
    batches = {line.split(" ", 1)[1] for line in notes.read_text().splitlines()}
    assert (batches == set(map(str, serial(data, 3)))) == (dispatch == "dynamic")


def test_an_abandoned_batch_goes_to_a_survivor() -> None:
    data, board = torch.arange(12), Board(2)
    dead, alive = (worker(board, r).batches(data, 4, dispatch="dynamic") for r in (0, 1))
    lost = next(dead).tolist()
    got = [next(alive).tolist()]
    board.abandon(0)
    got += numbers(alive)
    assert sorted([*got]) == sorted(serial(data, 4))
    assert got[1] == lost


@BOTH
def test_loops_left_early_and_the_next_ones(dispatch: str) -> None:
    data, board = torch.arange(100), Board(1)
    one = worker(board)
    for loop in range(200):  # more than a board keeps open
        for batch in one.batches(data, 5, seed=loop, dispatch=dispatch):
            assert batch.tolist() == serial(data, 5, seed=loop)[0]
            break
    board.leave(0)
    # What was left is over for a replacement, except for the last loop, where it may have died.
    for loop in (150, 198):
        again = worker(board)
        again._rounds = loop
        assert numbers(again.batches(data, 5, seed=loop, dispatch=dispatch)) == []
    again._rounds = 199
    assert len(numbers(again.batches(data, 5, seed=199, dispatch=dispatch))) == 20


@BOTH
def test_a_loop_that_was_left_is_over_once_the_worker_returns(dispatch: str) -> None:
    for returned, left in ((True, 0), (False, 20)):
        board = Board(1)
        first = worker(board)
        loop = first.batches(torch.arange(100), 5, dispatch=dispatch)
        next(loop)
        del loop
        first.retire(returned=returned)
        board.leave(0)
        rest = numbers(worker(board).batches(torch.arange(100), 5, dispatch=dispatch))
        assert len(rest) == left


@BOTH
def test_loops_within_loops(dispatch: str) -> None:
    one = worker(Board(1))
    outer, inner = torch.arange(12), torch.arange(100, 106)
    got = [
        (batch.tolist(), numbers(one.batches(inner, 2, dispatch=dispatch)))
        for batch in one.batches(outer, 4, dispatch=dispatch)
    ]
    assert got == [(batch, serial(inner, 2)) for batch in serial(outer, 4)]


@BOTH
def test_a_paused_worker_parks_between_batches(dispatch: str) -> None:
    board, parked = Board(1), []
    one = worker(board)
    one.on_park = lambda: parked.append(board.positions())
    loop = one.batches(torch.arange(12), 4, dispatch=dispatch)
    first = next(loop).tolist()
    board.pause()
    threading.Timer(0.2, board.resume).start()
    rest = numbers(loop)
    assert [first, *rest] == serial(torch.arange(12), 4)
    assert len(parked) == 1
    # Another run goes on after the batch that was the last before the pause.
    resumed = Board(1)
    resumed.restore(parked[0])
    assert numbers(worker(resumed).batches(torch.arange(12), 4, dispatch=dispatch)) == rest


def test_a_batch_is_announced_before_it_is_taken() -> None:
    calls: list[Any] = []

    class Spy(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            calls.append(f"example {index}")
            return index

    one = worker(Board(1))
    one.on_take = calls.append
    one.batches(Spy(), 1)  # not begun, but a loop
    list(one.batches(Spy(), 1, shuffle=False))
    assert calls == [1, "example 0", 1, "example 1", 1]


def test_progress_and_loss_can_be_seen() -> None:
    board = Board(2)
    one = worker(board, 1)
    list(one.batches(torch.arange(8), 2))
    one.barrier()
    one.log(torch.tensor(0.5, requires_grad=True))
    seat = board.seat(1)
    assert (seat["progress"], seat["loss"], seat["phase"]) == (2 + 1 + 1, 0.5, "wait")
    phases = [phase for _, _, phase in board.events(1)[0]]
    assert phases == ["wait", "pull", "compute", "pull", "compute", "done", "wait"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dispatch": "eager"}, r"dispatch: expected one of 'static', 'dynamic', got 'eager'"),
        (
            {"epochs": 1 << 31},
            r"epochs: expected at most 4,294,967,295 batches in one loop, got .*",
        ),
        ({"batch_size": None}, r"batch_size: expected an integer >= 1, got None"),
    ],
)
def test_bad_input_raises_at_the_call(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        worker(Board(1)).batches(torch.arange(4), **{"batch_size": 2, **options})


def test_no_order_is_made_twice_for_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Making one takes as long as thousands of batches."""
    made: list[int] = []
    order = batches._order

    def spy(examples: int, seed: int, epoch: int) -> torch.Tensor:
        made.append(epoch)
        return order(examples, seed, epoch)

    monkeypatch.setattr(batches, "_order", spy)
    list(worker(Board(1)).batches(torch.arange(64), 2, epochs=3))
    assert made == [0, 1, 2]
