"""Ranks that average every 8 steps: ADDRESS PROCESSES cpu|cuda METHOD, one of `METHODS`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer

import asyncopt
from asyncopt.distributed import ElasticAveraging, LocalSteps
from benches.peers.ranks import joined
from benches.peers.training import LR, model, shard, spawn, take_turns

EVERY = 8

Make = Callable[[torch.optim.Optimizer], torch.optim.Optimizer]

METHODS: dict[str, Make] = {
    "local": lambda local: LocalSteps(local, EVERY),
    "local-waiting": lambda local: LocalSteps(local, EVERY, overlap=0),
    "elastic": lambda local: ElasticAveraging(local, EVERY),
    "torch": lambda local: PostLocalSGDOptimizer(local, PeriodicModelAverager(EVERY)),
}


def work(rank: int, address: str, processes: int, place: str, method: str) -> None:
    with joined(address, rank, processes, place) as device:
        network = model().to(device)
        local: torch.optim.Optimizer
        if place == "cpu" and method != "torch":
            local = asyncopt.SGD(network.parameters(), lr=LR)
        else:
            local = torch.optim.SGD(network.parameters(), lr=LR, fused=True)
        opt = METHODS[method](local)
        settle = getattr(opt, "pull", lambda: None)  # torch's averager has no such end
        batches = shard(rank, processes, device)
        take_turns(address, rank, network, opt, batches, settle=settle)


if __name__ == "__main__":
    address, processes, place, method = sys.argv[1:]
    spawn(work, (address, int(processes), place, method), processes=int(processes))
