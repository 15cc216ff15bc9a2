"""Memory that is no segment, a damaged one, or somebody else's is refused before it is touched."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

import asyncopt
from asyncopt.store import Store

from .looks import CHECKSUM, SYNCS, Header, header_of, shared


def copy_of_segment(sync: str = "striped") -> torch.Tensor:
    """A segment's bytes in memory of their own."""
    memory = shared(sync).store.memory.clone()
    assert isinstance(memory, torch.Tensor)
    return memory


def refused(memory: torch.Tensor, match: str) -> None:
    """Attaching raises, and writes nothing."""
    before = memory.clone()
    with pytest.raises(asyncopt.SegmentError, match=match):
        Store.attach(memory)
    assert torch.equal(memory, before)


@pytest.mark.parametrize("sync", SYNCS)
def test_an_intact_copy_attaches(sync: str) -> None:
    """An undamaged copy attaches, so the refusals below are due to the damage."""
    store = Store.attach(copy_of_segment(sync))
    assert (store.sync, store.version) == (sync, 3)
    assert store.ledger().pushes == 3


@pytest.mark.parametrize("size", [0, 1, 8, 4095, 4096, 1 << 16])
@pytest.mark.parametrize("fill", [0, 255, None], ids=["zeros", "ones", "noise"])
def test_foreign_memory(size: int, fill: int | None) -> None:
    if fill is None:
        memory = torch.randint(0, 256, (size,), dtype=torch.uint8)
    else:
        memory = torch.full((size,), fill, dtype=torch.uint8)
    refused(memory, "no asyncopt segment")


def test_every_byte_of_the_header_counts() -> None:
    """A flipped bit anywhere in the constant part is seen."""
    memory = copy_of_segment()
    for i in range(CHECKSUM + 8):
        memory[i] ^= 1 << (i % 8)
        refused(memory, r"no asyncopt segment|header is damaged|expected segment format")
        memory[i] ^= 1 << (i % 8)
    Store.attach(memory)


@pytest.mark.parametrize("cut", [1, 64, 4096])
def test_truncated_or_extended(cut: int) -> None:
    memory = copy_of_segment()
    refused(memory[:-cut].clone(), "damaged")
    refused(torch.cat([memory, torch.zeros(cut, dtype=torch.uint8)]), "damaged")


def test_never_finished() -> None:
    """The magic number is written last."""
    memory = copy_of_segment()
    header_of(memory).magic = 0
    refused(memory, "never finished")


def set_format(header: Header) -> None:
    header.version_of_format += 1


def set_sync_name(header: Header) -> None:
    header.sync_name = b"telepathy"


def set_sync(header: Header) -> None:
    header.sync = len(SYNCS)


def set_namespace(header: Header) -> None:
    header.pid_namespace += 1


FOREIGN: dict[str, tuple[Callable[[Header], None], str]] = {
    "format": (set_format, "expected segment format 3, got 4; use one build"),
    "sync's name": (set_sync_name, "syncs differ; use one build"),
    "sync": (set_sync, "syncs differ; use one build"),
    "PID namespace": (set_namespace, "another PID namespace.*start all workers in one"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_segment_of_another_build_or_namespace(kind: str) -> None:
    """With a checksum that is right."""
    change, message = FOREIGN[kind]
    memory = copy_of_segment()
    change(header_of(memory))
    header_of(memory).sign()
    refused(memory, message)


def test_a_refused_segment_has_no_worker() -> None:
    """A worker whose store is refused takes no slot of the segment."""
    optimizer = shared()
    assert [w.process for w in optimizer.ledger().workers] == [os.getpid()]
    memory = optimizer.store.memory
    header = header_of(memory)
    header.layout_hash ^= 1
    slots = bytes(memory[4096 : optimizer.store.segment.data_offset].numpy())
    refused(memory, "damaged")
    assert bytes(memory[4096 : optimizer.store.segment.data_offset].numpy()) == slots
    header.layout_hash ^= 1
