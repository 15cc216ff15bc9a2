"""The store: one sealed shared-memory segment that several processes map."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib
from multiprocessing.context import get_spawning_popen
from typing import Any

import torch

from asyncopt import _core
from asyncopt.errors import SegmentError
from asyncopt.store.layout import Layout
from asyncopt.store.ledger import Ledger

__all__ = ["Store"]

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Store:
    """Parameters, optimizer state, locks and ledger in one memfd segment.

    The segment has no name: it is reached only through its descriptor, which travels to worker
    processes when they are spawned, and is gone when the last process that maps it is. It is
    allocated before use (a full memory is an error here, not a crash later), readable by its owner
    alone (mode 0600) and sealed against growing and shrinking.

    Args:
        layout: where each tensor lies.
        sync: name of the sync.
        workers: how many workers can hold a slot at once, the creator included.
        lock_timeout: seconds after which a wait for a lock raises :class:`asyncopt.LockTimeout`.

    Raises:
        SegmentError: the memory cannot be had; the message says how much was asked for.
        ValueError: `workers` or `lock_timeout` is out of range.
    """

    def __init__(self, layout: Layout, *, sync: str, workers: int, lock_timeout: float) -> None:
        if not 1 <= workers <= _core.MAX_WORKERS:
            raise ValueError(f"workers: expected 1 to {_core.MAX_WORKERS}, got {workers}")
        if not 0 < lock_timeout <= 1e9:
            raise ValueError(f"lock_timeout: expected seconds in (0, 1e9], got {lock_timeout}")
        if layout.data_bytes >= 1 << 48:  # no address space holds it, nor this build its arithmetic
            raise _cannot_allocate(layout.data_bytes, "more than a process can address")
        config = _core.SegmentConfig(
            sync=sync,
            workers=workers,
            data_bytes=layout.data_bytes,
            param_bytes=layout.param_bytes,
            lock_timeout=lock_timeout,
            layout_hash=layout.hash,
        )
        self.memory = _map_new_memfd(config.bytes_needed)
        self.segment = _core.Segment.create(self.memory.data_ptr(), self.nbytes, config)

    @classmethod
    def attach(cls, memory: torch.Tensor) -> Store:
        """Maps a segment that another process made.

        Args:
            memory: uint8, the whole mapped segment.

        Raises:
            SegmentError: the memory is no segment, damaged, or of another build or PID namespace.
        """
        store = cls.__new__(cls)
        store.memory = memory
        store.segment = _core.Segment.attach(memory.data_ptr(), memory.numel())
        return store

    @property
    def nbytes(self) -> int:
        """Size of the segment in bytes."""
        return self.memory.numel()

    @property
    def sync(self) -> str:
        """Name of the sync under which updates reach the store."""
        return self.segment.sync

    @property
    def version(self) -> int:
        """Number of pushes that the store has taken."""
        return self.segment.version

    def ledger(self) -> Ledger:
        """A snapshot of all workers' counters."""
        return Ledger.read(self.segment)

    def view(
        self, offset: int, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> torch.Tensor:
        """A tensor over the store's data.

        Args:
            offset: in bytes from the start of the data, a multiple of the item size.
            dtype: of the view.
            shape: of the view.
            strides: of the view, in elements.
        """
        start = self.segment.data_offset + offset
        view = torch.empty(0, dtype=dtype)
        return view.set_(
            self.memory.untyped_storage(),
            start // dtype.itemsize,
            shape,
            strides,
        )

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


def _check_available(nbytes: int) -> None:
    # The kernel would grant a memfd more than there is and then end processes to make room.
    available = _available_memory()
    if nbytes > available:
        raise OSError(errno.ENOMEM, f"only {available:,} bytes are available")


def _available_memory() -> int:
    """Bytes that can be had without swapping: the machine's, or its control group's if less."""
    with open("/proc/meminfo") as meminfo:
        fields = dict(line.split(":", 1) for line in meminfo)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    group = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no limit ("max"), or no control groups
        return available
    return min(available, max(0, limit - used))


def _map_new_memfd(nbytes: int) -> torch.Tensor:
    """uint8 tensor over a new, allocated, sealed memfd of `nbytes` bytes, all zero."""
    try:
        _check_available(nbytes)
        fd = os.memfd_create("asyncopt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # torch maps a duplicate of the descriptor and owns it: its own machinery for sharing
            # tensors between processes then works on the segment as it is.
            storage = torch.UntypedStorage._new_shared_fd_cpu(  # type: ignore[attr-defined]
                fd, nbytes
            )
        finally:
            os.close(fd)
    except (OSError, RuntimeError) as error:
        raise _cannot_allocate(nbytes, str(error)) from error
    # The duplicate is not for programs that this process starts.
    os.set_inheritable(storage._share_fd_cpu_()[0], False)
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _cannot_allocate(nbytes: int, reason: str) -> SegmentError:
    return SegmentError(
        f"store: cannot allocate {nbytes:,} bytes of shared memory: {reason}; use fewer workers, a "
        "sync with fewer copies, or free memory"
    )
