"""DistributedDataParallel over gloo, the same batch per process: ADDRESS PROCESSES."""

from __future__ import annotations

import os
import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from benches.peers.training import LR, model, shard, spawn, take_turns, use_core


def work(rank: int, address: str, processes: int) -> None:
    use_core(rank)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the host's name resolves to
    meeting = f"file://{address}.gloo"
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=processes)
    network = DistributedDataParallel(model())
    opt = torch.optim.SGD(network.parameters(), lr=LR, fused=True)
    take_turns(address, rank, network, opt, shard(rank, processes))
    distributed.destroy_process_group()


if __name__ == "__main__":
    spawn(work, (sys.argv[1], int(sys.argv[2])), processes=int(sys.argv[2]))
