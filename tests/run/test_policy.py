"""Policy for replacing and reporting workers, without workers and without a clock."""

from __future__ import annotations

import math
import os

from asyncopt.run.backoff import Backoff
from asyncopt.run.stalls import Stalls, state_of


def test_replacements_come_ever_later_while_there_is_no_progress() -> None:
    backoff = Backoff(9)
    delays = [backoff.next(progress=False) for _ in range(8)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.next(progress=True) == 0.1
    assert backoff.next(progress=True) is None


def test_progress_gives_no_further_replacements() -> None:
    backoff = Backoff(2)
    assert [backoff.next(progress=True) for _ in range(4)] == [0.1, 0.1, None, None]
    assert Backoff(0).next(progress=True) is None


def test_each_stall_is_reported_once() -> None:
    stalls = Stalls(limit=2)
    assert not stalls.look(0, progress=5, now=0)
    assert not stalls.look(0, progress=5, now=1.9)
    assert not stalls.look(1, progress=5, now=1.9)
    assert stalls.look(0, progress=5, now=2)
    assert not stalls.look(0, progress=5, now=9)
    assert stalls.look(1, progress=5, now=9)
    assert not stalls.look(0, progress=6, now=10)
    assert stalls.look(0, progress=6, now=12)


def test_a_reason_to_wait_is_no_stall() -> None:
    stalls = Stalls(limit=2)
    stalls.look(0, progress=5, now=0)
    stalls.forget(0)
    assert not stalls.look(0, progress=5, now=3)
    assert stalls.look(0, progress=5, now=5)
    assert Stalls(math.inf).interval == math.inf
    assert not Stalls(math.inf).look(0, progress=0, now=1e9)


def test_states_in_words() -> None:
    assert state_of(os.getpid()) == "running"
    assert state_of(2**22 + 1) == "gone"  # no system has as many
