"""The barrier's bookkeeping, without processes, threads or a clock."""

from __future__ import annotations

import math

from asyncopt.run.rendezvous import Rendezvous


def test_the_last_arrival_releases_all_every_time() -> None:
    meeting = Rendezvous(2)
    for _ in range(2):
        meeting.arrive(1, deadline=10)
        assert meeting.settle(now=9) == {}
        assert meeting.deadline == 10
        meeting.arrive(0, deadline=12)
        assert meeting.settle(now=9) == {0: "", 1: ""}
        assert meeting.settle(now=99) == {}
        assert meeting.deadline == math.inf


def test_the_earliest_deadline_breaks_it_for_good() -> None:
    meeting = Rendezvous(3)
    meeting.arrive(0, deadline=10)
    meeting.arrive(2, deadline=5)
    assert meeting.deadline == 5
    answers = meeting.settle(now=5)
    assert set(answers) == {0, 2}
    assert "all 3 workers within the timeout, worker 1 did not come" in answers[0]
    meeting.arrive(1, deadline=20)
    assert meeting.settle(now=6) == {1: answers[0]}


def test_a_worker_that_has_returned_breaks_it_at_once() -> None:
    meeting = Rendezvous(3)
    meeting.leave(1)
    meeting.leave(2)
    assert meeting.settle(now=0) == {}
    meeting.arrive(0, deadline=10)
    assert "workers 1, 2 returned without it" in meeting.settle(now=0)[0]


def test_the_last_arrival_wins_over_a_deadline_that_passed_meanwhile() -> None:
    meeting = Rendezvous(2)
    meeting.arrive(0, deadline=1)
    meeting.arrive(1, deadline=9)
    assert meeting.settle(now=2) == {0: "", 1: ""}


def test_a_replacement_passes_at_once_what_its_predecessor_has_passed() -> None:
    meeting = Rendezvous(2)
    for _ in range(2):
        meeting.arrive(0, deadline=10)
        meeting.arrive(1, deadline=10)
        meeting.settle(now=0)
    meeting.restart(1)
    meeting.arrive(0, deadline=10)
    assert meeting.settle(now=0) == {}
    for _ in range(2):
        meeting.arrive(1, deadline=10)
        assert meeting.settle(now=0) == {1: ""}
    meeting.arrive(1, deadline=10)
    assert meeting.settle(now=0) == {0: "", 1: ""}


def test_a_worker_that_dies_at_the_barrier_has_not_arrived() -> None:
    meeting = Rendezvous(2)
    meeting.arrive(1, deadline=10)
    meeting.restart(1)
    meeting.arrive(0, deadline=10)
    assert meeting.waiting == {0}
    assert meeting.settle(now=0) == {}
    meeting.arrive(1, deadline=10)
    meeting.restart(1)  # before it could be answered
    meeting.arrive(1, deadline=10)
    assert meeting.settle(now=0) == {0: "", 1: ""}


def test_a_lost_worker_is_not_waited_for() -> None:
    meeting = Rendezvous(3)
    meeting.arrive(0, deadline=10)
    meeting.arrive(1, deadline=10)
    meeting.lose(2)
    assert meeting.settle(now=0) == {0: "", 1: ""}
    meeting.arrive(0, deadline=10)
    meeting.arrive(1, deadline=10)
    meeting.lose(1)
    assert meeting.settle(now=0) == {0: ""}
    meeting.leave(0)
