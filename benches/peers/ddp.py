"""DistributedDataParallel, the same batch per process: ADDRESS PROCESSES cpu|cuda."""

from __future__ import annotations

import sys

import torch
from torch.nn.parallel import DistributedDataParallel

from benches.peers.ranks import joined
from benches.peers.training import LR, model, shard, spawn, take_turns


def work(rank: int, address: str, processes: int, place: str) -> None:
    with joined(address, rank, processes, place) as device:
        network = DistributedDataParallel(model().to(device))
        opt = torch.optim.SGD(network.parameters(), lr=LR, fused=True)
        take_turns(address, rank, network, opt, shard(rank, processes, device))


if __name__ == "__main__":
    address, processes, place = sys.argv[1:]
    spawn(work, (address, int(processes), place), processes=int(processes))
