"""The Python interface of the board; tests/cpp/test_board*.cc test the engine's side."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.queues import Queue

import pytest

from asyncopt.errors import RunTimeout, SegmentError
from asyncopt.run.board import PHASES, Board


def test_sizes() -> None:
    assert Board(3).workers == 3
    for bad in (0, -1, 32001):
        with pytest.raises(ValueError, match=r"workers: expected 1 to 32000, got"):
            Board(bad)


def test_batches() -> None:
    board = Board(2)
    assert [board.take(rank, 0, 3) for rank in (0, 1, 0, 1)] == [0, 1, 2, -1]
    assert [board.take_static(1, 1, 6, 2) for _ in range(4)] == [1, 3, 5, -1]
    with pytest.raises(ValueError, match="rank: expected less than 2, got 2"):
        board.take(2, 0, 3)
    with pytest.raises(ValueError, match="round: expected less than"):
        board.done(0, 1 << 40)


def test_positions_survive_json() -> None:
    board = Board(2)
    assert [board.take(0, 0, 9) for _ in range(3)] == [0, 1, 2]
    assert board.take(1, 0, 9) == 3
    board.finish(1, 0)
    board.begin(1)
    board.admit(1)
    board.end(1)
    positions = board.positions()
    assert json.loads(json.dumps(positions)) == positions

    resumed = Board(2)
    resumed.restore(json.loads(json.dumps(positions)))
    assert resumed.positions() == positions
    assert resumed.turns == 1
    assert [resumed.take(1, 0, 9), resumed.take(0, 0, 9), resumed.take(0, 0, 9)] == [4, 2, 5]
    with pytest.raises(ValueError, match="no worker has used"):
        resumed.restore(positions)
    with pytest.raises(ValueError, match=r"expected those of a run with 3 workers, got 2; resume"):
        Board(3).restore(positions)


@pytest.mark.parametrize(
    "damage",
    [
        {"workers": "two"},
        {"turns": -1},
        {"rounds": [[1]]},
        {"rounds": 3},
        {"claims": [[0, 0, "lost", 1]]},
        {"claims": [[0, 0, "held"]]},
        {"claims": None},
    ],
    ids=repr,
)
def test_damaged_positions(damage: dict[str, object]) -> None:
    board = Board(2)
    whole = board.positions()
    with pytest.raises(ValueError, match="positions: expected what"):
        board.restore({**whole, **damage})  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match="positions: expected what"):
        board.restore({})  # type: ignore[typeddict-item]
    board.restore(whole)


def test_timeouts_name_who_is_ahead() -> None:
    board = Board(3)
    board.begin(0, 0)
    start = time.monotonic()
    with pytest.raises(
        RunTimeout, match=r"max_staleness: worker 1 waited 0.2 s for its turn, but worker 0"
    ) as error:
        board.begin(1, 0, timeout=0.2)
    assert time.monotonic() - start >= 0.2
    assert error.value.ranks == (0,)
    # A worker that timed out does not block the others.
    board.end(0)
    board.begin(2, 0, timeout=0.0)

    board = Board(3)
    for rank in (0, 1):
        board.begin(rank, 1)
    board.admit(0)
    board.end(0)
    board.begin(0, 1)
    with pytest.raises(RunTimeout, match=r"worker 0 waited 0.1 s for its push, but worker 1 had"):
        board.admit(0, timeout=0.1)
    board.admit(1, timeout=0.0)

    board.pause()
    with pytest.raises(RunTimeout, match=r"pause: expected it to end within 0.1 s"):
        board.park(2, timeout=0.1)
    assert board.parked == [2]


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raises in the main thread after so many seconds, as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_waits_let_signals_and_threads_in() -> None:
    board = Board(2)
    board.begin(0, 0)
    counted = 0
    over = threading.Event()

    def count() -> None:
        nonlocal counted
        while not over.is_set():
            counted += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        start = time.monotonic()
        with alarm(0.2), pytest.raises(KeyboardInterrupt):
            board.begin(1, 0, timeout=60)
        board.pause()
        with alarm(0.2), pytest.raises(KeyboardInterrupt):
            board.park(1, timeout=60)
        assert time.monotonic() - start < 45  # of 60
    finally:
        over.set()
        thread.join()
    assert counted > 3


def test_seats_and_events() -> None:
    board = Board(2)
    empty = board.seat(1)
    assert (empty["pid"], empty["incarnation"], empty["progress"]) == (0, 0, 0)
    assert math.isnan(empty["loss"])
    before = time.monotonic_ns()
    for phase in PHASES:
        board.mark(1, phase)
    board.beat(1)
    board.log(1, 0.5)
    assert board.seat(1) == {
        "pid": os.getpid(),
        "incarnation": 1,
        "progress": 1,
        "loss": 0.5,
        "phase": PHASES[-1],
    }
    events, lost = board.events(1)
    assert lost == 0
    assert [(number, phase) for number, _, phase in events] == list(enumerate(PHASES, 1))
    times = [when for _, when, _ in events]
    assert before <= times[0]
    assert times == sorted(times)
    assert times[-1] <= time.monotonic_ns()
    assert board.events(1, 4) == (events[4:], 0)
    for _ in range(5000):
        board.mark(1, "pull")
    events, lost = board.events(1, len(PHASES))
    assert lost + len(events) == 5000
    assert events[0][0] == len(PHASES) + lost + 1
    with pytest.raises(ValueError, match=r"phase: expected one of start, .*; got 'lunch'"):
        board.mark(0, "lunch")


def work(board: Board, rank: int, results: Queue[tuple[int, list[int]]]) -> None:
    """In a spawned process: batches until there are none, or the process must die."""
    taken = []
    while (batch := board.take(rank, 0, 100)) >= 0:
        taken.append(batch)
        if rank == 1 and len(taken) == 5:
            results.put((os.getpid(), taken))
            results.close()
            results.join_thread()
            os.kill(os.getpid(), signal.SIGKILL)
    results.put((os.getpid(), taken))


@pytest.mark.slow
def test_spawned_processes_share_it() -> None:
    """The last batch of a killed worker goes to its replacement, here this process."""
    board = Board(2)
    context = multiprocessing.get_context("spawn")
    results: Queue[tuple[int, list[int]]] = context.Queue()
    victim = context.Process(target=work, args=(board, 1, results))
    victim.start()
    pid, lost = results.get(timeout=60)
    victim.join(60)
    assert victim.exitcode == -signal.SIGKILL
    assert board.seat(1)["pid"] == pid == victim.pid
    board.leave(1)
    assert board.seat(1)["pid"] == 0

    other = context.Process(target=work, args=(board, 0, results))
    other.start()
    _, rest = results.get(timeout=60)
    other.join(60)
    assert other.exitcode == 0
    assert board.take(1, 0, 100) == lost[-1]
    assert board.take(1, 0, 100) == -1
    assert sorted(lost + rest) == list(range(100))
    results.close()


def test_only_spawning_sends_it() -> None:
    board = Board(1)
    with pytest.raises(SegmentError, match="sent only to a process that is being spawned"):
        pickle.dumps(board)
    assert copy.deepcopy({"board": board})["board"] is board
