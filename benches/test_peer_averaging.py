"""Two ranks that average every 8 steps, beside DDP, which does so at every step, and a store.

The model, data, batches and turns are those of test_workers.py: every contender has seen as many
images when the losses are compared. Where there are two GPUs each rank has one and they talk by
NCCL; else they are processes on a core each, talk by gloo, and a run on a store is beside them.
gloo's threads then share the cores with the training, so little communication is hidden.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benches.conftest import Say
from benches.interleave import Pair, record, replay
from benches.test_workers import HOGWILD_STORE, ROUNDS, Program, take_turns

pytestmark = pytest.mark.benchmark(timer=replay)

QUICK = 6
"""A replica that is pulled back to a center goes at two thirds of the pace of the others."""

PLACE = "cuda" if torch.cuda.device_count() >= 2 else "cpu"


def averaging(method: str) -> Program:
    return Program("benches.peers.averaging", 2, ("2", PLACE, method))


OURS, DDP, AVERAGER = "LocalSteps, overlapped", "DDP", "torch's PeriodicModelAverager"
PROGRAMS = {
    OURS: averaging("local"),
    "LocalSteps, overlap=0": averaging("local-waiting"),
    "ElasticAveraging, overlapped": averaging("elastic"),
    AVERAGER: averaging("torch"),
    DDP: Program("benches.peers.ddp", 2, ("2", PLACE)),
}
if PLACE == "cpu":
    PROGRAMS["asyncopt.launch, hogwild"] = HOGWILD_STORE
GOALS = {DDP: 1.0, AVERAGER: 1.0}


def test_peer_averaging(benchmark: Any, quick: bool, say: Say) -> None:
    comparison, rows, case = take_turns(PROGRAMS, QUICK if quick else ROUNDS, say)
    lines = record(
        benchmark,
        comparison,
        [Pair(OURS, name, GOALS.get(name)) for name in PROGRAMS if name != OURS],
        suite="averaging",
        case=case,
        rows=rows,
    )
    for line in lines:
        say(line)
    assert rows[OURS]["test_accuracy"] > rows[DDP]["test_accuracy"] - 0.02
