"""Moving a tensor's memory into a shared segment, together with every view of it."""

from __future__ import annotations

import ctypes
import functools
import weakref
from typing import Any, Protocol

import numpy as np
import torch

from asyncopt.store.memory import SharedStorage, storage_in

__all__ = ["can_move", "keep_addresses", "move", "report_moves"]

# `c10::StorageImpl` begins with a vtable pointer and a reference count. Somewhere in the next words
# is its `DataPtr`: the address of the bytes, and a unique_ptr that frees them, which is a pair of a
# function and its argument.
_WORDS = 8
_ADDRESS, _CONTEXT, _POINTER = 0, 2, 3  # places in the DataPtr, and its size


def move(storage: torch.UntypedStorage, memory: torch.Tensor, offset: int) -> None:
    """Move a storage's bytes into a segment. All tensors that are views of them follow.

    This is what ``share_memory_()`` does: it exchanges the data pointers of two storages. But torch
    can exchange them only with a new file in /dev/shm, one for each storage. Here the new bytes are
    part of a segment, and two storages exchange their pointers through ctypes.

    Numpy arrays that were made of the tensors before keep the old bytes. The storage cannot be
    resized afterwards.

    Args:
        storage: on the CPU, with at least one byte; :func:`can_move` is true.
        memory: uint8, a whole mapped segment.
        offset: of the bytes in it.
    """
    place = _place()
    assert place is not None
    _own_bytes(storage)
    other = storage_in(memory, offset, storage.nbytes())
    other.copy_(storage)
    is_exported = _is_allocated(storage, place) and not storage.resizable()
    _exchange(storage, other, place)
    mine: Any = storage
    mine.__class__ = SharedStorage
    mine.memory, mine.offset = memory, offset
    if is_exported:  # to numpy, which does not see the exchange
        mine.former = other
    torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).numpy()  # forbids resizing


class KeepsAddresses(Protocol):
    """An object that caches addresses of tensors."""

    def forget_addresses(self) -> object:
        """Look the addresses up again before they are used."""


_keepers: weakref.WeakSet[KeepsAddresses] = weakref.WeakSet()


def keep_addresses(keeper: KeepsAddresses) -> None:
    """Notify `keeper`, while it exists, whenever storages have moved."""
    _keepers.add(keeper)


def report_moves() -> None:
    """Notify all keepers of addresses that storages have moved. Call it after :func:`move`."""
    for keeper in list(_keepers):
        keeper.forget_addresses()


def can_move() -> bool:
    """True if the running torch keeps a storage's data pointer as :func:`move` expects it."""
    return _place() is not None


@functools.cache
def _place() -> int | None:
    """Index of the word at which a StorageImpl has its DataPtr; None if a trial move fails."""
    mine = torch.zeros(64, dtype=torch.uint8, device="cpu").untyped_storage()
    words, address = list(_words(mine, 0, _WORDS)), mine.data_ptr()
    if words.count(address) != 2:
        return None
    place = words.index(address)
    if not _is_allocated(mine, place):
        return None
    buffer = np.ones(64, dtype=np.uint8)
    theirs = torch.frombuffer(buffer, dtype=torch.uint8).untyped_storage()
    watch, other = weakref.ref(buffer), theirs.data_ptr()
    del buffer
    _exchange(mine, theirs, place)
    moved = (mine.data_ptr(), theirs.data_ptr()) == (other, address)
    whole = (mine.tolist(), theirs.tolist()) == ([1] * 64, [0] * 64)
    del theirs
    kept = watch() is not None
    del mine
    return place if moved and whole and kept and watch() is None else None


def _own_bytes(storage: torch.UntypedStorage) -> None:
    """Give a copy-on-write storage its own bytes."""
    whole = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)
    if torch._C._is_cow_tensor(whole):  # type: ignore[attr-defined]
        whole[:1].add_(0)


def _words(storage: torch.UntypedStorage, place: int, count: int) -> ctypes.Array[ctypes.c_size_t]:
    words = ctypes.c_size_t * count
    return words.from_address(storage._cdata + place * ctypes.sizeof(ctypes.c_size_t))


def _is_allocated(storage: torch.UntypedStorage, place: int) -> bool:
    """True if the bytes come from torch's allocator, which frees them by their address."""
    pointer = _words(storage, place, _POINTER)
    return pointer[_ADDRESS] == pointer[_CONTEXT]


def _exchange(one: torch.UntypedStorage, other: torch.UntypedStorage, place: int) -> None:
    mine, theirs = _words(one, place, _POINTER), _words(other, place, _POINTER)
    for i, (my, their) in enumerate(zip(list(mine), list(theirs), strict=True)):
        mine[i], theirs[i] = their, my
