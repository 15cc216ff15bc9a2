"""Ways to look at stores from outside."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import Parameter

import asyncopt
from asyncopt import _core

SYNCS = asyncopt.syncs()
IN_PLACE = tuple(c["name"] for c in _core.syncs() if not c["replica"])
REPLICAS = tuple(c["name"] for c in _core.syncs() if c["replica"])


def shared(sync: str = "hogwild", rule: str = "Adam", *, workers: int = 1, **options: Any) -> Any:
    """A shared optimizer over two parameters that has taken three steps."""
    params = [Parameter(torch.linspace(-1, 1, 21)), Parameter(torch.ones(5, 3))]
    optimizer = getattr(asyncopt, rule)(params, lr=0.1, sync=sync, **options)
    optimizer.share_memory(workers=workers)
    step(optimizer, 3)
    return optimizer


def params_of(optimizer: Any) -> list[Parameter]:
    """All parameters, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer: Any, times: int, first: int = 0) -> None:
    """Steps with gradients that depend on the number of the step alone."""
    for i in range(first, first + times):
        for p in params_of(optimizer):
            p.grad = torch.cos(torch.arange(p.numel()) + i).reshape(p.shape).to(p.dtype)
        optimizer.step()


def data_of(optimizer: Any) -> bytes:
    """The segment's data: parameters and state, of every copy. The ledger is no part of it."""
    store = optimizer.store
    return bytes(store.memory[store.segment.data_offset :].numpy())


def fd_of(optimizer: Any) -> int:
    """The descriptor of an optimizer's segment; torch owns it."""
    fd, size = optimizer.store.memory.untyped_storage()._share_fd_cpu_()
    assert size == optimizer.store.nbytes
    assert isinstance(fd, int)
    return fd


def descriptors() -> int:
    """How many descriptors of segments this process has open."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:asyncopt")
        except OSError:  # the one that listed the directory
            continue
    return count


def mappings() -> int:
    """How many mappings of segments this process has."""
    with open("/proc/self/maps") as maps:
        return sum("/memfd:asyncopt" in line for line in maps)


@contextmanager
def file_size_limit(nbytes: int) -> Iterator[None]:
    """No file, memfds included, can grow beyond `nbytes`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


#: The part of a segment's header that never changes ends with the checksum, at this offset.
CHECKSUM = 112


class Header(ctypes.LittleEndianStructure):
    """The constant part of a segment's header, as `src/asyncopt/store/segment.h` lays it out."""

    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("version_of_format", ctypes.c_uint32),
        ("sync", ctypes.c_uint32),
        ("sync_name", ctypes.c_char * 16),
        ("total_bytes", ctypes.c_uint64),
        ("layout_hash", ctypes.c_uint64),
        ("pid_namespace", ctypes.c_uint64),
        ("workers", ctypes.c_uint64),
        ("copies", ctypes.c_uint64),
        ("stripes", ctypes.c_uint64),
        ("stripe_bytes", ctypes.c_uint64),
        ("data_bytes", ctypes.c_uint64),
        ("param_bytes", ctypes.c_uint64),
        ("lock_timeout_ns", ctypes.c_uint64),
        ("checksum", ctypes.c_uint64),
    )

    def sign(self) -> None:
        """Makes the checksum right (FNV-1a over the fields between magic and checksum)."""
        value = 0xCBF29CE484222325
        for byte in bytes(self)[8:CHECKSUM]:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        self.checksum = value


def header_of(memory: torch.Tensor) -> Header:
    """The header in a segment, or in a copy of one; writing to it writes there."""
    return Header.from_address(memory.data_ptr())
