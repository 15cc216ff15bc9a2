"""Ranks whose peer hangs or dies raise an error."""

from __future__ import annotations

from pathlib import Path

import pytest

import asyncopt

from . import jobs
from .cases import RANKS, Place


@pytest.mark.slow
def test_a_rank_that_stands_still_and_one_that_dies(tmp_path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="worker 1"):
        run = asyncopt.launch(
            jobs.left_alone,
            (Place("cpu", "gloo"), str(tmp_path)),
            RANKS,
            threads_per_worker=1,
            timeout=120,
            on_error="continue",
        )
    heard = run.results[0]
    assert len(heard) == 2
    for error, untouched in heard:
        assert str(error).startswith(
            "the exchange after step 2: expected ranks 0, 1 to take part, got: "
        )
        assert error.ranks == (0, 1)
        assert untouched
