"""Workers of `asyncopt.launch` on one shared model: ADDRESS SYNC WORKERS."""

from __future__ import annotations

import sys

from torch import nn

import asyncopt
from benches.peers.training import BATCH, EPOCHS_PER_TURN, LR, Batches, data, model, take_turns


def work(
    worker: asyncopt.Worker, network: nn.Module, opt: asyncopt.optim.Optimizer, address: str
) -> None:
    def batches(turn: int) -> Batches:
        return worker.batches(data(), BATCH, EPOCHS_PER_TURN, seed=turn, drop_last=True)

    take_turns(address, worker.rank, network, opt, batches)


def main(address: str, sync: str, workers: str) -> None:
    network = model()
    opt = asyncopt.SGD(network.parameters(), lr=LR, sync=sync)
    asyncopt.launch(
        work,
        args=(network, opt, address),
        workers=int(workers),
        threads_per_worker=1,
        pin=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
