"""The grammar of ``--delay``."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncopt.studies.options import parse_delay
from asyncopt.studies.training.measure import Conditions


def seconds(text: str, workers: int = 2, turns: int = 2, seed: int = 0) -> list[list[float]]:
    """Rank by rank, turn by turn."""
    delay = parse_delay(text, workers, seed)
    return [[delay.seconds(rank, turn) for turn in range(turns)] for rank in range(workers)]


def test_one_number_is_for_all_and_several_are_rank_by_rank() -> None:
    assert seconds("0.002") == [[0.002, 0.002]] * 2
    assert seconds("0, 0.01") == [[0.0, 0.0], [0.01, 0.01]]


def test_exponential_delays_follow_the_seed() -> None:
    assert seconds("exponential:0.002", seed=3) == seconds("exponential:0.002", seed=3)
    assert seconds("exponential:0.002", seed=3) != seconds("exponential:0.002", seed=4)
    mixed = seconds("0.5,exponential:0.002")
    assert mixed[0] == [0.5, 0.5]
    assert mixed[1][0] != mixed[1][1]


def test_a_recorded_file_is_replayed(tmp_path: Path) -> None:
    path = tmp_path / "recorded"
    path.write_text("[0, 0, 0.1]\n[0, 1, 0.2]\n[1, 0, 0.3]\n")
    assert seconds(str(path)) == [[0.1, 0.2], [0.3, 0.3]]


def test_runs_with_fewer_workers_have_the_delays_of_the_first_ranks() -> None:
    delay = parse_delay("0,0,0.01", 3, 0)
    delay.check(1)
    assert Conditions("thread", delay).sleeps(2) == [0.0, 0.0]
    assert max(Conditions("thread", delay).sleeps(3)) == pytest.approx(0.01)
    assert Conditions("thread").sleeps(2) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("soon", "expected seconds .*, or a file that asyncopt.Delay.record wrote; got 'soon'"),
        ("", "got ''"),
        ("-1", "expected seconds >= 0, got -1"),
        ("nan", "expected seconds >= 0, got nan"),
        ("exponential:fast", "expected exponential:SECONDS, got 'exponential:fast'"),
        ("exponential:-1", "expected seconds >= 0, got -1"),
        ("0,0.1,0.2", "expected 2 entries, one per worker, got 3"),
        (".", "cannot read '.'"),
    ],
)
def test_what_is_no_delay(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_delay(text, 2, 0)


def test_a_file_that_was_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_text("no delays")
    with pytest.raises(ValueError, match=r"expected \[rank, turn, seconds\] in line 1"):
        parse_delay(str(path), 2, 0)
    path.write_text("[0, 0, 0.1]\n[1, 0, 0.1]\n[2, 0, 0.1]\n")
    with pytest.raises(ValueError, match="one worker or of all 2, got one of 3"):
        parse_delay(str(path), 2, 0)
