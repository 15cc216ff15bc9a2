"""The store: one sealed shared-memory segment that several processes map."""

from __future__ import annotations

from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

from asyncopt import _core
from asyncopt.errors import SegmentError
from asyncopt.store.layout import Layout
from asyncopt.store.ledger import Ledger
from asyncopt.store.memory import cannot_allocate, map_new_memfd, tensor_in

__all__ = ["Store"]


class Store:
    """Parameters, optimizer state, locks and ledger in one memfd segment.

    The segment has no name: it is accessible only through its descriptor, which is sent to worker
    processes when they are spawned, and is freed when the last process that maps it ends. It is
    allocated before use (lack of memory is an error here, not a crash later), readable only by its
    owner (mode 0600) and sealed against growing and shrinking.

    Args:
        layout: offset of each tensor.
        sync: name of the sync.
        workers: how many workers can hold a slot at once, the creator included.
        lock_timeout: seconds after which a wait for a lock raises :class:`asyncopt.LockTimeout`.

    Raises:
        SegmentError: the memory cannot be allocated; the message gives the size.
        ValueError: `workers` or `lock_timeout` is out of range.
    """

    def __init__(self, layout: Layout, *, sync: str, workers: int, lock_timeout: float) -> None:
        if not 1 <= workers <= _core.MAX_WORKERS:
            raise ValueError(f"workers: expected 1 to {_core.MAX_WORKERS}, got {workers}")
        if not hasattr(lock_timeout, "__float__") or not 0 < lock_timeout <= 1e9:
            raise ValueError(f"lock_timeout: expected seconds in (0, 1e9], got {lock_timeout!r}")
        if layout.data_bytes >= 1 << 48:  # no address space holds it, nor this build its arithmetic
            raise cannot_allocate(layout.data_bytes, "more than a process can address")
        config = _core.SegmentConfig(
            sync=sync,
            workers=workers,
            data_bytes=layout.data_bytes,
            param_bytes=layout.param_bytes,
            lock_timeout=lock_timeout,
            layout_hash=layout.hash,
        )
        self.memory = map_new_memfd(config.bytes_needed)
        self.segment = _core.Segment.create(
            self.memory.data_ptr(), self.nbytes, config, self.memory
        )

    @classmethod
    def attach(cls, memory: torch.Tensor) -> Store:
        """Map a segment that another process made.

        Args:
            memory: uint8, the whole mapped segment.

        Raises:
            SegmentError: the memory is not a segment, is damaged, or comes from another build or
                PID namespace.
        """
        store = cls.__new__(cls)
        store.memory = memory
        store.segment = _core.Segment.attach(memory.data_ptr(), memory.numel(), memory)
        return store

    @property
    def nbytes(self) -> int:
        """Size of the segment in bytes."""
        return self.memory.numel()

    @property
    def lock_timeout(self) -> float:
        """Seconds after which a wait for a lock raises :class:`asyncopt.LockTimeout`."""
        return self.segment.lock_timeout

    @property
    def sync(self) -> str:
        """Name of the sync under which updates reach the store."""
        return self.segment.sync

    @property
    def version(self) -> int:
        """Number of pushes that the store has taken."""
        return self.segment.version

    def ledger(self, *, audited: bool = False) -> Ledger:
        """A snapshot of all workers' counters.

        Args:
            audited: whether every push counts the updates that it loses.
        """
        may_lose = next(each["may_lose"] for each in _core.syncs() if each["name"] == self.sync)
        return Ledger.read(self.segment, counts_lost=audited or not may_lose)

    def view(
        self, offset: int, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> torch.Tensor:
        """A tensor over the store's data, with a storage of exactly its own bytes.

        Args:
            offset: in bytes from the start of the data, a multiple of the item size.
            dtype: of the view.
            shape: of the view.
            strides: of the view, in elements.
        """
        return tensor_in(self.memory, self.segment.data_offset + offset, dtype, shape, strides)

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is None:
            raise SegmentError(
                "store: a shared segment can be sent only to a process that is being spawned; "
                "pass it in args of asyncopt.launch or of a spawn-context Process"
            )
        return Store.attach, (self.memory,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Store:
        return self

    def __repr__(self) -> str:
        return f"Store({self.sync!r}, {self.nbytes:,} bytes, version {self.version})"
