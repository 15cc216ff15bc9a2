"""One process, plain torch: ADDRESS THREADS."""

from __future__ import annotations

import sys

import torch

from benches.peers.training import LR, model, shard, take_turns, use_core


def main(address: str, threads: str) -> None:
    if threads == "1":
        use_core(0)
    else:
        torch.set_num_threads(int(threads))
    network = model()
    opt = torch.optim.SGD(network.parameters(), lr=LR, fused=True)
    take_turns(address, 0, network, opt, shard(0, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
