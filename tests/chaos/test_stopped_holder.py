"""A worker is stopped while it holds a lock: errors name it, and no waiter takes the lock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import asyncopt
from asyncopt.run import launch

from . import jobs
from .scene import LONG, Scene, dice, often

TIMES = often(3, 330)  # under each sync
DEADLINE = 0.4  # s
LATE = 0.1  # s, of every waiter in a long run, and of the fastest where other programs run
HANG = 30.0  # s, of every waiter


@pytest.mark.slow
@pytest.mark.parametrize("sync", ["mutex", "seqlock", "striped"])
def test_lock_timeouts_name_the_stopped_holder(
    sync: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    model = jobs.Weights(1_000_000)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.0, momentum=0.9, sync=sync)
    optimizer.share_memory(workers=2, lock_timeout=DEADLINE)
    scene = Scene.of(2)
    seed = dice(request, record_property).randrange(1 << 31)
    args = (model, optimizer, scene, TIMES, seed)
    run = launch(jobs.stop_the_other, args, workers=2, timeout=60 + 20 * TIMES)
    timeouts = run.results[0]
    assert len(timeouts) == TIMES
    for waited, text in timeouts:
        assert f"held by process {int(scene.process[1])}" in text
        assert DEADLINE <= waited < HANG
    waits = [waited for waited, _ in timeouts]
    assert (max(waits) if LONG else min(waits)) < DEADLINE + LATE
    assert run.ledger.repairs == 0
