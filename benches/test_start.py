"""Time from the call that starts workers to its return; the workers only meet.

Workers of `asyncopt.launch` are forks of a process that has imported torch, which the first launch
starts ("first") and the next ones find. `torch.multiprocessing.spawn` imports torch in every
process; so does its fork server, unless it preloads torch, which is the floor here.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

import asyncopt
from benches.conftest import Say
from benches.interleave import ROUNDS, Pair, interleave, record, replay
from benches.peers.start import meet, meet_ours

pytestmark = pytest.mark.benchmark(timer=replay)

OURS, FIRST = "asyncopt.launch", "asyncopt.launch, first"
SPAWN, SERVER = "torch.multiprocessing.spawn", "forkserver, preloaded"


def ours(weights: torch.Tensor) -> None:
    asyncopt.launch(meet_ours, (weights,), workers=len(weights), threads_per_worker=1)


def first(weights: torch.Tensor) -> None:
    asyncopt.stop_fork_server()
    ours(weights)


def spawn(weights: torch.Tensor) -> None:
    start_processes(meet, (weights,), nprocs=len(weights))


def forkserver(weights: torch.Tensor) -> None:
    start_processes(meet, (weights,), nprocs=len(weights), start_method="forkserver")


@pytest.mark.parametrize("workers", [2, 8])
def test_start(
    benchmark: Any, quick: bool, say: Say, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # for all of them, as launch has it
    multiprocessing.set_forkserver_preload(["torch", "benches.peers.start"])
    weights = torch.zeros(workers, dtype=torch.int64).share_memory_()
    heaviest: dict[str, int] = {}

    def sampler(name: str, start: Callable[[torch.Tensor], None]) -> Callable[[], float]:
        def sample() -> float:
            weights.zero_()
            begin = time.perf_counter()
            start(weights)
            seconds = time.perf_counter() - begin
            assert int(weights.min()) > 1 << 20, name
            heaviest[name] = max(heaviest.get(name, 0), int(weights.sum()) // workers)
            return seconds

        return sample

    contenders = {OURS: ours, FIRST: first, SPAWN: spawn, SERVER: forkserver}
    samplers = {name: sampler(name, start) for name, start in contenders.items()}
    for sample in samplers.values():
        sample()  # servers start
    comparison = interleave(samplers, 2 if quick else ROUNDS)
    lines = record(
        benchmark,
        comparison,
        [Pair(OURS, name) for name in contenders if name != OURS],
        suite="start",
        case={"workers": workers},
        rows={name: {"bytes": weight} for name, weight in heaviest.items()},
    )
    for line in lines:
        say(line)
