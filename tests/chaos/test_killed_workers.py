"""Workers are killed at random instants, under every sync, while they train."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import asyncopt
from asyncopt.run import Run, launch

from . import jobs
from .scene import Scene, dice, now, often, wait_for

WORKERS = 3
KILLS = often(8, 850)  # under each sync
KILLS_APART = often(2, 400)  # of workers with a device
SIZE = 300_000  # elements: so many that a worker is mostly inside a push
RECOVERY = 5.0  # s from a kill to the replacement's first push, on a machine with time for it
HANG = 60.0  # s
ENOUGH = 300  # pushes at a rate of 0.02: 3 x 0.98^300 is 0.007


class Killer(threading.Thread):
    """Kills one or two workers at a time, waits for their replacements' pushes, and goes on.

    At the end it lets them train on, until ``optimizer`` has taken ``ENOUGH`` steps.
    """

    def __init__(self, scene: Scene, optimizer: Any, dice: random.Random, kills: int) -> None:
        super().__init__()
        self.scene = scene
        self._optimizer = optimizer
        self._most = kills
        self._dice = dice
        self.kills: list[int] = []  # ranks
        self.recoveries: list[float] = []  # s, without what the processor did for others
        self.waits: list[float] = []  # s, by the clock
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self._await(lambda: bool(self.scene.pusher.all()), "all push")
            while len(self.kills) < self._most and not self.scene.over:
                self._strike(self._dice.sample(range(WORKERS), self._dice.randint(1, 2)))
            self._await(lambda: self._optimizer.ledger().version >= ENOUGH, "all train on")
        except BaseException as problem:
            self.problem = problem
        finally:
            self.scene.over[0] = 1

    def _is_replaced(self, rank: int, process: int) -> bool:
        return int(self.scene.pusher[rank]) != process

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(lambda: condition() or self.scene.over, HANG, what)

    def _strike(self, victims: list[int]) -> None:
        time.sleep(self._dice.uniform(0, 0.1))
        scene = self.scene
        processes = [int(scene.process[rank]) for rank in victims]
        struck = now()
        for process in processes:
            os.kill(process, signal.SIGKILL)
        self.kills += victims
        survivors = [rank for rank in range(WORKERS) if rank not in victims]
        self._await(
            lambda: all(scene.pushed[rank] > struck for rank in survivors),
            f"{survivors} go on after the end of {victims}",
        )
        for rank, process in zip(victims, processes, strict=True):
            self._await(partial(self._is_replaced, rank, process), f"another {rank} pushes")
            self.recoveries.append(float(scene.born[rank] - struck + scene.effort[rank]))
            self.waits.append(now() - struck)


def train_under_fire(killer: Killer, fn: Any, *args: Any, kills: int, **options: Any) -> Run:
    """A run whose workers are killed; its record counts exactly the killed workers."""
    options |= {"on_error": "restart", "retries": kills, "timeout": HANG * (1 + kills)}
    killer.start()
    try:
        with pytest.warns(RuntimeWarning, match="was killed by SIGKILL"):
            run = launch(fn, args, WORKERS, **options)
    finally:
        killer.scene.over[0] = 1
        killer.join(60)
    if killer.problem is not None:
        raise killer.problem
    assert sorted(loss.rank for loss in run.losses) == sorted(killer.kills)
    assert run.restarts == tuple(killer.kills.count(rank) for rank in range(WORKERS))
    assert all(loss.cause.startswith(f"worker {loss.rank} was killed") for loss in run.losses)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("sync", asyncopt.syncs())
def test_survivors_train_on_and_the_dead_are_replaced(
    sync: str, request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    model = jobs.Weights(SIZE)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.02, momentum=0.5, sync=sync)
    scene = Scene.of(WORKERS)
    killer = Killer(scene, optimizer, dice(request, record_property), KILLS)
    data = torch.zeros(500)
    run = train_under_fire(killer, jobs.descend, model, optimizer, data, scene, kills=KILLS)
    # Each repair is one lock of a killed worker. Under striped, each thread of a push holds one.
    locks = torch.get_num_threads() if sync == "striped" else 1
    assert run.ledger.repairs <= len(run.losses) * locks
    assert sum(loss.repairs for loss in run.losses) == run.ledger.repairs
    # Training went on to its end.
    assert bool(torch.isfinite(model.weight).all())
    assert float((model.weight.detach() - jobs.TARGET).abs().max()) < 0.5
    worst = max(killer.recoveries)
    record_property("recovery", worst)
    print(f"recovery: {worst:.2f} s of their own at worst, {max(killer.waits):.2f} s by the clock")
    assert worst < RECOVERY


@pytest.mark.slow
@pytest.mark.parametrize(("sync", "lag"), [("hogwild", 1), ("seqlock", 0)])
def test_workers_with_a_device_die_in_the_middle_of_a_push(
    sync: str,
    lag: int,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """The store's tensors stay whole; under seqlock every replica is one whole version."""
    model = jobs.Layers(3, 4 * SIZE)  # each in a chunk of its own
    optimizer = asyncopt.SGD(model.parameters(), lr=0.02, sync=sync)
    scene, torn = Scene.of(WORKERS), torch.zeros(WORKERS, dtype=torch.int64)
    killer = Killer(scene, optimizer, dice(request, record_property), KILLS_APART)
    run = train_under_fire(
        killer,
        jobs.descend_apart,
        *(model, optimizer, torch.zeros(500), scene, torn),
        kills=KILLS_APART,
        devices=["cpu"] * WORKERS,
        lag=lag,
    )
    assert run.ledger.repairs <= len(run.losses)
    for weight in model.parameters():
        assert float((weight.detach() - jobs.TARGET).abs().max()) < 0.5
    if sync == "seqlock":
        assert model.is_whole()
        assert not torn.any()
    assert max(killer.recoveries) < RECOVERY
