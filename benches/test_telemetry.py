"""Telemetry overhead for two training workers: at most 2% of their throughput.

The same model, data and store as in test_workers.py, in plain processes and in those of
`asyncopt.launch(view=True)`: with the board's events, the recorder, the live view (redrawn twice
a second on a hidden terminal) and each loss logged. The difference includes the other work of a
run, mainly the dispatch of batches, so it is an upper bound. The ledger is a part of the
store and on both sides: a dozen additions to a worker's own cache line in a push of microseconds.
"""

from __future__ import annotations

from typing import Any

import pytest

from benches.conftest import Say
from benches.interleave import Pair, record, replay
from benches.test_workers import Program, take_turns

pytestmark = pytest.mark.benchmark(timer=replay)

ROUNDS = 31
"""2% asks for a spread narrower than that."""

BARE, VIEWED, ALL = "store alone", "launch(view=True)", "with trace and TensorBoard"
PROGRAMS = {
    VIEWED: Program("benches.peers.asyncopt_workers", 2, ("hogwild", "2", "view")),
    BARE: Program("benches.peers.store_alone", 2, ("2",)),
    ALL: Program("benches.peers.asyncopt_workers", 2, ("hogwild", "2", "everything")),
}
GOAL = 0.98


def test_telemetry(benchmark: Any, quick: bool, say: Say) -> None:
    comparison, rows, case = take_turns(PROGRAMS, 3 if quick else ROUNDS, say)
    lines = record(
        benchmark,
        comparison,
        [Pair(VIEWED, BARE, GOAL), Pair(VIEWED, ALL)],
        suite="telemetry",
        case=case,
        rows=rows,
    )
    for line in lines:
        say(line)
