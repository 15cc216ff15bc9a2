"""Setup of the contenders over torch.distributed: a process group and a device per rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed

from benches.peers.training import use_core


@contextmanager
def joined(address: str, rank: int, processes: int, place: str) -> Iterator[torch.device]:
    """The process group of all ranks; `place` is "cpu" (gloo) or "cuda" (NCCL, a GPU each)."""
    use_core(rank)
    device = torch.device(place, rank) if place == "cuda" else torch.device(place)
    if place == "cuda":
        torch.cuda.set_device(device)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # whatever the host's name resolves to
    backend = "nccl" if place == "cuda" else "gloo"
    meeting = f"file://{address}.group"
    distributed.init_process_group(backend, meeting, rank=rank, world_size=processes)
    yield device
    distributed.destroy_process_group()
