"""Private (copy-on-write) maps of shared memory: one copy for all processes.

A process that unpickles such a map sees the bytes that were sent, and its writes stay its own.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["PrivateMap", "PrivateStorage"]


class PrivateMap:
    """Shared memory that unpickles as a private map.

    Args:
        memory: uint8, a whole segment.
    """

    def __init__(self, memory: torch.Tensor) -> None:
        self._memory = memory

    def __reduce__(self) -> tuple[Any, ...]:
        return _map_privately, (self._memory,)


def _map_privately(memory: torch.Tensor) -> mmap.mmap:
    fd = memory.untyped_storage()._share_fd_cpu_()[0]
    return mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE)


@dataclass(frozen=True)
class PrivateStorage:
    """Bytes of shared memory that unpickle as a storage in a private map."""

    private: PrivateMap
    offset: int
    nbytes: int

    def __reduce__(self) -> tuple[Any, ...]:
        return _storage, (self.private, self.offset, self.nbytes)


def _storage(memory: mmap.mmap, offset: int, nbytes: int) -> torch.UntypedStorage:
    part = torch.frombuffer(memory, dtype=torch.uint8, count=nbytes, offset=offset)
    return part.untyped_storage()
