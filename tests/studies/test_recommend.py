"""Recommendations follow from the measurements: hand-worked cases."""

from __future__ import annotations

import pytest

from asyncopt.studies.recommend import Way, recommend
from asyncopt.studies.rows import Spread


def way(name: str, workers: int, seconds: float, *, worse: bool = False, repeats: int = 3) -> Way:
    values = tuple(seconds * (1 + 0.001 * i) for i in range(repeats))
    return Way(name, workers, Spread(values), worse)


ONE = way("hogwild", 1, 10.0)


@pytest.mark.parametrize(
    ("ways", "expected"),
    [
        ([], ""),
        ([ONE], "Only one worker was measured"),
        (
            [ONE, way("hogwild", 2, 10.5), way("mutex", 2, 11.0)],
            "Use one worker (hogwild took 10.01 ±0% s): hogwild with 2 workers was 0.95x as fast.",
        ),
        (  # beside the fastest with one worker, where syncs hardly differ
            [ONE, way("mutex", 1, 10.1), way("hogwild", 2, 10.5)],
            "Use one worker (hogwild took 10.01 ±0% s): hogwild with 2 workers was 0.95x as fast.",
        ),
        (
            [ONE, way("hogwild", 2, 9.9)],
            "Use one worker (hogwild took 10.01 ±0% s): hogwild with 2 workers was 1.01x as fast,",
        ),
        (
            [ONE, way("hogwild", 2, 6.0), way("mutex", 2, 8.0)],
            "Use hogwild with 2 workers: 1.67x one worker.",
        ),
        (  # a tie goes to the stronger guarantee
            [ONE, way("hogwild", 2, 6.0), way("mutex", 2, 6.01)],
            "Use mutex with 2 workers: 1.66x one worker; hogwild was no faster beyond the spread.",
        ),
        (  # and to fewer workers
            [ONE, way("hogwild", 2, 6.0), way("hogwild", 3, 6.0)],
            "Use hogwild with 2 workers: 1.67x one worker.",
        ),
        (  # more workers than the 4 cores show preemption
            [ONE, way("hogwild", 2, 6.0), way("hogwild", 8, 1.0)],
            "Use hogwild with 2 workers: 1.67x one worker.",
        ),
        (
            [ONE, way("hogwild", 2, 6.0, worse=True), way("mutex", 2, 8.0)],
            "Use mutex with 2 workers: 1.25x one worker; hogwild with 2 workers was faster but",
        ),
        (
            [way("hogwild", 2, 6.0, worse=True)],
            "No sync kept the score of one worker",
        ),
        (
            [ONE, way("hogwild", 2, 4.0)],
            "Use hogwild with 2 workers: 2.50x one worker, more than 2 workers can gain",
        ),
        (
            [way("hogwild", 1, 10.0, repeats=1), way("hogwild", 2, 6.0, repeats=1)],
            "Use hogwild with 2 workers: 1.67x one worker; one repeat has no spread, so confirm it",
        ),
        ([way("hogwild", 2, 6.0)], "Use hogwild with 2 workers: the fastest that was measured."),
    ],
)
def test_sentence(ways: list[Way], expected: str) -> None:
    sentence = recommend(ways, usable_cores=4)
    assert sentence == expected or (expected and sentence.startswith(expected)), sentence
    assert expected == "" or sentence.endswith(".")
