"""Measured costs between two processors are plausible; impossible requests are refused."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt
import pytest

from asyncopt import _core

USABLE = sorted(os.sched_getaffinity(0))
ALL_OF_IT = np.zeros((1, 1), dtype=np.int64)
two_processors = pytest.mark.skipif(len(USABLE) < 2, reason="needs two processors")


@two_processors
def test_words_take_nanoseconds_and_sleepers_microseconds() -> None:
    words = _core.probe_words((USABLE[0], USABLE[1]))
    assert 1e-10 < words["lock"] < 1e-4
    assert 1e-10 < words["transfer"] < 1e-2
    assert 1e-8 < words["sleep"] < 1e-3
    assert 1e-7 < words["wake"] < 1.0
    assert 0 < words["wake_call"] < 1.0


@two_processors
@pytest.mark.parametrize(
    ("width", "starts"), [(64, ALL_OF_IT), (1, np.array([[1, 5, 63], [0, 5, 9]]))]
)
def test_lines_cost_something(width: int, starts: npt.NDArray[np.int64]) -> None:
    lines = _core.probe_lines(
        processors=(USABLE[0], USABLE[1]), lines=64, width=width, starts=starts
    )
    for name in ("update", "exchange", "copy", "snapshot"):
        own, remote = lines[name]
        assert 0 <= own < 1e-3
        assert 0 <= remote < 1e-3
    # Sixteen compare-exchanges take longer than one vector store, wherever the line is.
    assert lines["exchange"][0] > lines["update"][0]


@pytest.mark.parametrize(
    ("processors", "width", "starts", "message"),
    [
        ((0, 0), 4, [[0]], "expected two, got 0 twice"),
        ((0, 1), 4, [[1]], "starts: expected 4 of 4 lines, got those from 1"),
        ((0, 1), 1, [[-1]], "got those from -1"),
        ((0, 1), 0, [[0]], "touches"),
        ((0, 1), 1, [0], "starts"),
    ],
)
def test_bad_input(
    processors: tuple[int, int], width: int, starts: list[object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.probe_lines(
            processors=processors, lines=4, width=width, starts=np.array(starts, dtype=np.int64)
        )


def test_a_processor_that_is_not_there() -> None:
    with pytest.raises((RuntimeError, OSError), match="binding a thread"):
        _core.probe_words((USABLE[0], 1023))
