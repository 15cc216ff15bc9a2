"""The pattern of pytorch/examples mnist_hogwild: ADDRESS PROCESSES [fused].

One model in shared memory, processes that each step it with a torch optimizer of their own: made
as the example makes it, or with torch's fused kernel.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from benches.peers.training import LR, model, shard, spawn, take_turns, use_core


def work(rank: int, network: nn.Module, address: str, processes: int, fused: bool) -> None:
    use_core(rank)
    opt = torch.optim.SGD(network.parameters(), lr=LR, fused=fused)
    take_turns(address, rank, network, opt, shard(rank, processes))


def main(address: str, processes: str, kernel: str = "") -> None:
    shared = model().share_memory()
    spawn(work, (shared, address, int(processes), kernel == "fused"), processes=int(processes))


if __name__ == "__main__":
    main(*sys.argv[1:])
