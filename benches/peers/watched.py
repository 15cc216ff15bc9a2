"""Workers on one shared model, more or less watched: ADDRESS WORKERS [HOW].

Without HOW they are plain processes on a store, which counts its ledger and nothing more. With
"view" they are those of `asyncopt.launch` with its board, recorder and live view, and log each
loss; with "everything" they are also traced and written down for TensorBoard.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import torch
from torch import nn

import asyncopt
from benches.peers.training import (
    BATCH,
    EPOCHS_PER_TURN,
    LR,
    Batches,
    data,
    model,
    shard,
    spawn,
    take_turns,
    use_core,
)


def work_alone(
    rank: int, network: nn.Module, opt: torch.optim.Optimizer, address: str, workers: int
) -> None:
    use_core(rank)
    take_turns(address, rank, network, opt, shard(rank, workers))


def work(
    worker: asyncopt.Worker, network: nn.Module, opt: torch.optim.Optimizer, address: str
) -> None:
    def batches(turn: int) -> Batches:
        return worker.batches(data(), BATCH, EPOCHS_PER_TURN, seed=turn, drop_last=True)

    take_turns(address, worker.rank, network, opt, batches, seen=worker.log)


def pretend_terminal() -> None:
    """Make stdout a terminal that nobody sees, so that the live view draws its table."""
    nowhere: Any = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    nowhere.isatty = lambda: True
    os.environ["TERM"] = "xterm"
    sys.stdout = nowhere


def main(address: str, workers: str, how: str = "") -> None:
    network = model()
    opt = asyncopt.SGD(network.parameters(), lr=LR, sync="hogwild")
    if not how:
        opt.share_memory(workers=int(workers))
        spawn(work_alone, (network, opt, address, int(workers)), processes=int(workers))
        return
    pretend_terminal()
    options: dict[str, Any] = {"view": True}
    with tempfile.TemporaryDirectory() as folder:
        if how == "everything":
            options |= {"log_dir": folder, "trace": os.path.join(folder, "trace.json")}
        asyncopt.launch(
            work,
            args=(network, opt, address),
            workers=int(workers),
            threads_per_worker=1,
            pin=True,
            **options,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
