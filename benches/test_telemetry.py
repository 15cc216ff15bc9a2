"""What it costs to watch two workers train: at most 2% of their throughput.

The same model, data and store as in test_workers.py, in processes that nobody watches and in those
of `asyncopt.launch(view=True)`: with the board's marks, the recorder, the live view (redrawn twice
a second on a terminal that nobody sees) and each loss logged. The difference also holds what a run
does besides, handing out batches above all, so it is an upper bound. The ledger is a part of the
store and on both sides: a dozen additions to a worker's own cache line in a push of microseconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from benches.conftest import Say
from benches.interleave import Pair, interleave, record, replay
from benches.peers.training import EPOCHS_PER_TURN, Score
from benches.peers.turns import Stage
from benches.test_workers import sampler, score_rows

pytestmark = pytest.mark.benchmark(timer=replay)

ROUNDS = 31
"""2% asks for a spread narrower than that."""

WORKERS = 2
BARE, VIEWED, ALL = "store alone", "launch(view=True)", "with trace and TensorBoard"
PROGRAMS = {VIEWED: ("view",), BARE: (), ALL: ("everything",)}
GOAL = 0.98


def test_telemetry(benchmark: Any, quick: bool, say: Say) -> None:
    with tempfile.TemporaryDirectory() as folder, Stage(Path(folder)) as stage:
        for name, how in PROGRAMS.items():
            stage.start(name, "benches.peers.watched", (str(WORKERS), *how))
        for name in PROGRAMS:
            stage.await_workers(name, WORKERS)
            say(f"{name}: ready")
        samplers = {name: sampler(stage, name) for name in PROGRAMS}
        for sample in samplers.values():
            sample()  # warm-up
        rounds = 3 if quick else ROUNDS
        comparison = interleave(samplers, rounds)
        scores: dict[str, list[Score]] = {name: stage.turn(name, "score") for name in PROGRAMS}
    rows = score_rows(comparison, scores)
    lines = record(
        benchmark,
        comparison,
        [Pair(VIEWED, BARE, GOAL), Pair(VIEWED, ALL)],
        suite="telemetry",
        case={"model": "LeNet, 4,000 images, batch 64", "epochs": EPOCHS_PER_TURN * (rounds + 1)},
        rows=rows,
    )
    for line in lines:
        say(line)
    for name, row in rows.items():
        assert row["test_accuracy"] > 0.8, name  # it did train; chance is 0.1
