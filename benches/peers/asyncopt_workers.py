"""Workers of `asyncopt.launch` on one shared model: ADDRESS SYNC WORKERS [HOW].

With "view" they are watched in a live view and log each loss; with "everything" they are also
traced and written down for TensorBoard.
"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from torch import nn

import asyncopt
from benches.peers.training import (
    BATCH,
    EPOCHS_PER_TURN,
    LR,
    Batches,
    data,
    ignore,
    model,
    take_turns,
)


def work(
    worker: asyncopt.Worker,
    network: nn.Module,
    opt: asyncopt.optim.Optimizer,
    address: str,
    logging: bool,
) -> None:
    def batches(turn: int) -> Batches:
        return worker.batches(data(), BATCH, EPOCHS_PER_TURN, seed=turn, drop_last=True)

    seen = worker.log if logging else ignore
    take_turns(address, worker.rank, network, opt, batches, seen)


def pretend_terminal() -> None:
    """Make stdout a terminal that nobody sees, so that the live view draws its table."""
    nowhere: Any = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    nowhere.isatty = lambda: True
    os.environ["TERM"] = "xterm"
    sys.stdout = nowhere


def main(address: str, sync: str, workers: str, how: str = "") -> None:
    network = model()
    opt = asyncopt.SGD(network.parameters(), lr=LR, sync=sync)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {}
        if how:
            pretend_terminal()
            options["view"] = True
        if how == "everything":
            options |= {"log_dir": folder, "trace": os.path.join(folder, "trace.json")}
        asyncopt.launch(
            work,
            args=(network, opt, address, bool(how)),
            workers=int(workers),
            threads_per_worker=1,
            pin=True,
            **options,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
