"""Injected delays: kinds, effect on workers, and refused values."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asyncopt
from asyncopt.run import Worker, launch
from asyncopt.run.board import Board
from asyncopt.run.delays import Delay, check_delay

from . import loops


class Given:
    """The fields of a run's plan that a worker reads."""

    def __init__(self, delay: Any, workers: int = 1) -> None:
        self.max_staleness = None
        self.delay = check_delay(delay, workers)


def slept(
    delay: Any, turns: int, monkeypatch: pytest.MonkeyPatch, board: Board | None = None
) -> list[float]:
    """Seconds that a worker of rank 0 sleeps in its turns, by an exact clock."""
    now = [0.0]
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps[-1] += seconds
        now[0] += seconds

    monkeypatch.setattr("asyncopt.run.turns.time.monotonic", lambda: now[0])
    monkeypatch.setattr("asyncopt.run.turns.time.sleep", sleep)
    model, *_ = loops.regression()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1).share_memory(1)
    board = board or Board(1)
    worker = Worker(
        0, 1, lambda _: None, board=board, optimizers=[optimizer], settings=Given(delay)
    )
    for _ in range(turns):
        naps.append(0.0)
        now[0] += 0.25  # s of computing
        worker.pull()
        now[0] += 2.0
        worker.push(optimizer)
        naps.append(0.0)
        optimizer.step()  # outside of a turn: a turn of its own
        naps.pop()
    monkeypatch.undo()
    return naps


def test_seconds_are_slept_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = [0.0, 0.125, 3.7, 0.5]
    assert slept(Delay.trace(trace), 5, monkeypatch) == pytest.approx([*trace, 0.0])
    assert slept(1, 3, monkeypatch) == pytest.approx([1.0, 1.0, 1.0])
    assert slept(None, 2, monkeypatch) == [0.0, 0.0]


def test_a_replacement_goes_on_in_the_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    board, trace = Board(1), Delay.trace([0.1, 0.2, 0.3, 0.4, 0.5])
    first = slept(trace, 2, monkeypatch, board)
    board.leave(0)
    assert first + slept(trace, 2, monkeypatch, board) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_one_sleep_per_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many optimizers are stepped in it; the gradient is there before it sleeps."""
    model, *_ = loops.regression()
    both = [asyncopt.SGD([p], lr=0.1).share_memory(1) for p in model.parameters()]
    worker = Worker(0, 1, lambda _: None, optimizers=both, settings=Given(0.5))
    naps: list[float] = []
    monkeypatch.setattr("asyncopt.run.turns.time.sleep", naps.append)
    clock = iter(range(1000))
    monkeypatch.setattr("asyncopt.run.turns.time.monotonic", lambda: next(clock) * 0.3)
    for _ in worker.batches(np.zeros((2, 1)), 1):
        before = len(naps)
        both[0].step()
        assert len(naps) == before + 1
        both[1].step()
        assert len(naps) == before + 1


def test_workers_are_slowed_down() -> None:
    model, x, y = loops.regression()
    optimizer = asyncopt.SGD(model.parameters(), lr=0.01, sync="mutex")
    delay = check_delay([0.0, 0.03], 2)
    run = launch(loops.descend, (model, optimizer, (x, y)), workers=2, mode="thread", delay=delay)
    assert run.results[1] <= run.elapsed / 0.03 + 1
    assert run.results[0] > run.results[1]  # the fast one takes more from the dispenser


def test_exponential_delays() -> None:
    delay = Delay.exponential(0.2, seed=3)
    draws = np.array([[delay.seconds(rank, turn) for turn in range(2000)] for rank in range(2)])
    assert draws.min() >= 0
    assert draws.mean() == pytest.approx(0.2, rel=0.1)
    assert draws.std() == pytest.approx(0.2, rel=0.1)
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.1
    assert len(np.unique(draws)) == draws.size
    again = pickle.loads(pickle.dumps(delay))
    assert [again.seconds(1, turn) for turn in range(20)] == draws[1, :20].tolist()
    assert Delay.exponential(0.2, seed=4).seconds(0, 0) != draws[0, 0]
    assert Delay.exponential(0.0).seconds(0, 0) == 0


def test_traces() -> None:
    one = Delay.trace([1, 2.5])
    assert [one.seconds(7, turn) for turn in range(4)] == [1, 2.5, 1, 2.5]
    two = Delay.trace([[1], [2, 3]])
    assert [two.seconds(rank, 1) for rank in range(2)] == [1, 3]
    assert check_delay(two, 2) is two
    three = Delay.trace(np.array([[1.0], [2.0], [3.0]]))
    assert three.seconds(2, 5) == 3


def test_a_recorded_trace_is_replayed(tmp_path: Path) -> None:
    """The seconds from pull to push of a first run are what a second one sleeps."""
    path = tmp_path / "trace.jsonl"
    path.write_text("something old")
    model, x, y = loops.regression()
    args = (model, asyncopt.SGD(model.parameters(), lr=0.01, sync="mutex"), (x, y), "static")
    recorder = Delay.record(path)
    start = time.monotonic()
    run = launch(loops.descend, args, workers=2, delay=recorder)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == run.ledger.pushes == 45
    replay = Delay.trace(path)
    for rank in range(2):
        mine = [seconds for who, _, seconds in lines if who == rank]
        turns = [turn for who, turn, _ in lines if who == rank]
        assert turns == list(range(run.results[rank]))
        assert [replay.seconds(rank, turn) for turn in turns] == mine
        assert 0 < sum(mine) < time.monotonic() - start
    assert check_delay(replay, 2) is replay
    with pytest.raises(
        ValueError, match=r"^delay: expected a trace of one worker or of all 3, .*2$"
    ):
        check_delay(replay, 3)


@pytest.mark.parametrize(
    ("delay", "message"),
    [
        (-1, r"delay: expected seconds >= 0, got -1"),
        (float("nan"), r"delay: expected seconds >= 0, got nan"),
        (float("inf"), r"delay: expected seconds >= 0, got inf"),
        ("1", r"delay: expected seconds >= 0, an asyncopt\.Delay or a list .*, got '1'"),
        (True, r"delay: expected seconds >= 0, an .*, got True"),
        ([0.1], r"delay: expected 2 entries, one per worker, got 1"),
        ([0.1, -0.1], r"delay\[1\]: expected seconds >= 0, got -0\.1"),
        ([0.1, Delay.trace([[1], [2], [3]])], r"delay: expected a trace of one worker or .* of 3"),
    ],
)
def test_bad_delays(delay: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}$"):
        check_delay(delay, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Delay.constant(-1), r"seconds: expected seconds >= 0, got -1"),
        (lambda: Delay.exponential("a"), r"mean: expected seconds >= 0, got 'a'"),  # type: ignore[arg-type]
        (lambda: Delay.exponential(1, seed=-1), r"seed: expected an integer >= 0, got -1"),
        (lambda: Delay.trace([]), r"source: expected a list of seconds or a file, got \[\]"),
        (lambda: Delay.trace([0.1, -2]), r"source\[1\]: expected seconds >= 0, got -2"),
        (lambda: Delay.trace([[0.1], []]), r"source\[1\]: expected a list of seconds, got \[\]"),
        (lambda: Delay.trace([[0.1], 0.1]), r"source\[1\]: expected a list of seconds, got 0\.1"),
    ],
)
def test_bad_parts(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize("text", ["", "[0, 0]", "[1, 0, 0.5]", "[0, 0, -1]", "{}", "x"])
def test_bad_trace_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f"{text}\n" if text else "")
    with pytest.raises(ValueError, match=r"^source: expected "):
        Delay.trace(path)
    with pytest.raises(FileNotFoundError):
        Delay.trace(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        Delay.record(tmp_path / "no" / "folder")
