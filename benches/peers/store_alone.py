"""Plain processes on a store, with no telemetry but its ledger: ADDRESS WORKERS."""

from __future__ import annotations

import sys

import torch
from torch import nn

import asyncopt
from benches.peers.training import LR, model, shard, spawn, take_turns, use_core


def work(
    rank: int, network: nn.Module, opt: torch.optim.Optimizer, address: str, workers: int
) -> None:
    use_core(rank)
    take_turns(address, rank, network, opt, shard(rank, workers))


def main(address: str, workers: str) -> None:
    network = model()
    opt = asyncopt.SGD(network.parameters(), lr=LR, sync="hogwild")
    opt.share_memory(workers=int(workers))
    spawn(work, (network, opt, address, int(workers)), processes=int(workers))


if __name__ == "__main__":
    main(*sys.argv[1:])
