"""Processes with models of their own, nothing shared: ADDRESS PROCESSES.

The same loop on private memory: an upper bound of the machine's throughput.
"""

from __future__ import annotations

import sys

import asyncopt
from benches.peers.training import LR, model, shard, spawn, take_turns, use_core


def work(rank: int, address: str, processes: int) -> None:
    use_core(rank)
    network = model()
    opt = asyncopt.SGD(network.parameters(), lr=LR)
    take_turns(address, rank, network, opt, shard(rank, processes))


if __name__ == "__main__":
    spawn(work, (sys.argv[1], int(sys.argv[2])), processes=int(sys.argv[2]))
