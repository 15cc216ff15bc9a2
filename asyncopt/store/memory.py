"""Memory shared between processes: fully allocated, sealed, accessible only by descriptor.

A tensor in such memory has a storage of exactly its own bytes (:func:`tensor_in`). Code that saves,
pickles or copies the tensor sees these bytes and nothing else of the segment. A tensor that is sent
to a worker process is sent as an offset in the segment, without a copy.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

from asyncopt._limits import available_memory
from asyncopt.errors import SegmentError

__all__ = [
    "SharedStorage",
    "cannot_allocate",
    "lay_out",
    "map_new_memfd",
    "storage_in",
    "tensor_in",
]

# Alignment of the parts of a segment in bytes, the same as in torch's own allocations.
ALIGNMENT = 64

_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def map_new_memfd(nbytes: int) -> torch.Tensor:
    """Map a new, allocated, sealed memfd that only its owner can open (mode 0600).

    Args:
        nbytes: its size.

    Returns:
        uint8 tensor of `nbytes` zeros. Pickling it to a process that is being spawned sends the
        descriptor.

    Raises:
        SegmentError: the memory cannot be allocated; the message gives the size.
    """
    try:
        _check_available(nbytes)
        fd = os.memfd_create("asyncopt", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            # torch maps a duplicate of the descriptor and owns it, so that its own sharing of
            # tensors between processes works on the segment.
            storage = torch.UntypedStorage._new_shared_fd_cpu(  # type: ignore[attr-defined]
                fd, nbytes
            )
        finally:
            os.close(fd)
    except (OSError, RuntimeError) as error:
        raise cannot_allocate(nbytes, str(error)) from error
    # Programs that this process starts must not inherit the duplicate.
    os.set_inheritable(storage._share_fd_cpu_()[0], False)
    return torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)


class SharedStorage(torch.UntypedStorage):
    """The bytes of one tensor in shared memory, as torch sees them.

    torch keeps this object with the memory, so every alias of the tensor has it. Copies of the
    tensor have ordinary storages. ``share_memory_()`` does nothing, as the bytes are shared.

    Attributes:
        memory: uint8, the whole mapped segment.
        offset: of the tensor's first byte in it.
    """

    memory: torch.Tensor
    offset: int

    def is_shared(self) -> bool:
        """True: other processes may map the same bytes."""
        return True

    def share_memory_(self) -> SharedStorage:
        """Return the storage as it is. torch's own method would move the bytes elsewhere."""
        return self

    def clone(self) -> torch.UntypedStorage:
        """A private copy."""
        return torch.UntypedStorage(self.nbytes(), device=self.device).copy_(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value; a process that is being spawned gets the place in the segment."""
        copy = torch.empty(0, dtype=torch.uint8, device="cpu").set_(self.clone())
        return torch.Tensor.untyped_storage, (copy,)


def tensor_in(
    memory: torch.Tensor,
    offset: int,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> torch.Tensor:
    """A dense tensor in shared memory whose storage is exactly its own bytes.

    Args:
        memory: uint8, a whole mapped segment.
        offset: where the tensor begins in it, in bytes; a multiple of the item size.
        dtype: of the tensor.
        shape: of the tensor.
        strides: of the tensor, in elements; they leave no gaps.
    """
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    if nbytes == 0:
        return torch.empty_strided(shape, strides, dtype=dtype, device="cpu")
    view = torch.empty(0, dtype=dtype, device="cpu")
    return view.set_(storage_in(memory, offset, nbytes), 0, shape, strides)


def storage_in(memory: torch.Tensor, offset: int, nbytes: int) -> SharedStorage:
    """A storage of `nbytes` of a mapped segment, from `offset` on; at least one byte."""
    part = torch.frombuffer(memory.numpy(), dtype=torch.uint8, count=nbytes, offset=offset)
    storage: Any = part.untyped_storage()
    storage.__class__ = SharedStorage
    storage.memory, storage.offset = memory, offset
    return storage  # type: ignore[no-any-return]


def _reduce(storage: SharedStorage) -> tuple[Callable[..., SharedStorage], tuple[Any, ...]]:
    return storage_in, (storage.memory, storage.offset, storage.nbytes())


ForkingPickler.register(SharedStorage, _reduce)


def lay_out(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Offsets of parts of these sizes (bytes) in one segment, and the size of the segment."""
    offsets, end = [], 0
    for nbytes in sizes:
        offsets.append(end)
        end += -(-nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, end


def cannot_allocate(nbytes: int, reason: str) -> SegmentError:
    """The error to raise when `nbytes` bytes of shared memory cannot be had."""
    return SegmentError(
        f"shared memory: cannot allocate {nbytes:,} bytes: {reason}; use fewer workers, a sync "
        "with fewer copies, or free memory"
    )


def _check_available(nbytes: int) -> None:
    # The kernel overcommits a memfd and then kills processes when memory runs out.
    available = available_memory()
    if available is not None and nbytes > available.nbytes:
        raise OSError(
            errno.ENOMEM, f"only {available.nbytes:,} bytes are available {available.where}"
        )
