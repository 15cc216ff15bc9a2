"""The memfd: unreadable for others, of one size for ever, without a name, and freed."""

from __future__ import annotations

import copy
import errno
import fcntl
import gc
import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt.optim import thread_clone
from asyncopt.optim.sharing import Sharing
from asyncopt.store import Layout, TensorSpec

from .looks import (
    IN_PLACE,
    REPLICAS,
    SYNCS,
    descriptors,
    fd_of,
    header_of,
    mappings,
    params_of,
    shared,
    step,
)


@pytest.fixture
def fd() -> Iterator[int]:
    """A descriptor of a segment in use."""
    optimizer = shared()
    yield fd_of(optimizer)
    del optimizer


def test_mode(fd: int) -> None:
    """Readable and writable by its owner alone."""
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
    assert os.fstat(fd).st_uid == os.geteuid()


def test_seals(fd: int) -> None:
    """No process that holds the descriptor can pull memory away under the others."""
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals == fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
    size = os.fstat(fd).st_size
    for other in (0, size - 1, size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, other)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    assert os.fstat(fd).st_size == size


def test_allocated(fd: int) -> None:
    """Every page is there from the start: none can be missing when it is first touched."""
    assert os.fstat(fd).st_blocks * 512 >= os.fstat(fd).st_size


def test_not_inherited(fd: int) -> None:
    """Programs that a worker starts do not get the segment."""
    assert not os.get_inheritable(fd)


def test_no_name() -> None:
    """Nothing in /dev/shm: the kernel knows the segment by its descriptors only."""

    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/shm/")

    before = mapped()
    optimizer = shared()
    assert mapped() == before
    assert optimizer.store.memory.is_shared()


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
def test_freed_with_the_last_reference(sync: str) -> None:
    """Descriptor and mapping go at once, without waiting for the garbage collector."""
    gc.collect()
    before = (descriptors(), mappings())
    gc.disable()
    try:
        optimizer = shared(sync)
        assert (descriptors(), mappings()) == (before[0] + 1, before[1] + 1)
        params = params_of(optimizer)
        del optimizer
        alive = (descriptors() - before[0], mappings() - before[1])
        assert alive == ((0, 0) if sync in REPLICAS else (1, 1))
        assert bool(params[0].isfinite().all())  # its memory outlives the optimizer
        del params
        assert (descriptors(), mappings()) == before
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("sync", SYNCS)
def test_freed_after_thread_clones(sync: str) -> None:
    """A clone's worker slot is free again, and its memory given up, as soon as it is dropped."""
    gc.collect()
    before = (descriptors(), mappings())
    gc.disable()
    try:
        optimizer = shared(sync)
        for _ in range(5):  # there is room for one at a time
            (clone,) = thread_clone((optimizer,))
            step(clone, 1)
            del clone
        del optimizer
        assert (descriptors(), mappings()) == before
    finally:
        gc.enable()


def test_freed_when_sharing_fails() -> None:
    """No segment is left by a call that is refused."""
    gc.collect()
    before = (descriptors(), mappings())
    optimizer = asyncopt.SGD([Parameter(torch.zeros(3))])
    refused: tuple[dict[str, Any], ...] = (
        *({"workers": bad} for bad in (-1, 1 << 16, 2.5, "2")),
        *({"lock_timeout": bad} for bad in (0.0, "1")),
    )
    for options in refused:
        with pytest.raises((ValueError, asyncopt.SegmentError), match=r"workers|lock_timeout"):
            optimizer.share_memory(**options)
    assert optimizer.store is None
    gc.collect()
    assert (descriptors(), mappings()) == before


def test_a_forked_child_gets_an_error_that_names_spawn() -> None:
    """It has no slot of its own: under leashed two workers in one would mix their buffers."""
    program = """if True:
        import os
        import asyncopt
        from tests.store.looks import SYNCS, data_of, shared, step
        for sync in SYNCS:
            optimizer = shared(sync)
            before = data_of(optimizer)
            child = os.fork()
            if child == 0:
                try:
                    step(optimizer, 1)
                except asyncopt.SegmentError as error:
                    print(error, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
            assert data_of(optimizer) == before
            step(optimizer, 1)
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = ended.stdout.splitlines()
    assert len(lines) == len(SYNCS)
    assert all(line.startswith("store: expected the process that took") for line in lines)
    assert all("start workers by spawn" in line for line in lines)


@pytest.mark.parametrize("sync", SYNCS)
def test_pickling_outside_spawn_is_refused(sync: str) -> None:
    """A pickle in a file or on a socket cannot carry the segment; the message says what can."""
    store = shared(sync).store
    with pytest.raises(asyncopt.SegmentError, match=r"being spawned; pass it in args"):
        pickle.dumps(store)


def test_a_copied_reference_is_the_same_store() -> None:
    store = shared().store
    assert copy.deepcopy(store) is store


@pytest.mark.parametrize("sync", SYNCS)
def test_header(sync: str) -> None:
    """The header's fields; processes rely on its layout."""
    optimizer = shared(sync, workers=4)
    store = optimizer.store
    header = header_of(store.memory)
    assert header.magic.to_bytes(8, "little") == b"asyncopt"
    assert (header.version_of_format, header.sync_name.decode()) == (3, sync)
    assert header.total_bytes == store.nbytes == os.fstat(fd_of(optimizer)).st_size
    assert header.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    assert header.workers == store.segment.workers == 5
    assert header.layout_hash == store.segment.layout_hash
    assert header.lock_timeout_ns == 60e9
    assert header.param_bytes <= header.data_bytes
    stored = header.checksum
    header.sign()
    assert header.checksum == stored
    assert store.sync == sync
    assert sync in repr(store)


def test_layout() -> None:
    """Cache lines of its own for every tensor; parameters first; equal layouts hash equally."""

    def layout(*sizes: int, dtype: torch.dtype = torch.float32) -> Layout:
        return Layout(TensorSpec((n,), (1,), dtype, torch.bfloat16, 2, 3) for n in sizes)

    made = layout(0, 1, 16, 17, 100)
    starts = [o for p in made.places for o in (p.param, *p.slots, p.scalars)]
    assert all(start % 64 == 0 for start in starts)
    assert [p.param for p in made.places] == [0, 0, 64, 128, 256]
    assert made.param_bytes == 256 + 448  # 400 bytes, rounded up
    assert min(o for p in made.places for o in p.slots) >= made.param_bytes
    assert made.data_bytes >= max(starts) + 24
    hashes = [
        made.hash,
        layout(1, 0, 16, 17, 100).hash,
        layout(0, 1, 16, 17).hash,
        layout(0, 1, 16, 17, 100, dtype=torch.float64).hash,
    ]
    assert len(set(hashes)) == len(hashes)
    assert layout(0, 1, 16, 17, 100).hash == made.hash


def test_another_layout_is_refused() -> None:
    """A layout that the store was not made for would reach beyond the data."""
    store = shared(workers=3).store
    layout = Layout([TensorSpec((10**6,), (1,), torch.float32, torch.float32, 0, 0)])
    with pytest.raises(asyncopt.SegmentError, match="layout"):
        Sharing(store, layout)


@pytest.mark.parametrize("sync", IN_PLACE)
def test_views_are_the_segment(sync: str) -> None:
    """Writes to a parameter, through any name, are in the segment and are trained."""
    optimizer = shared(sync, "SGD", momentum=0.9)
    first, _ = params_of(optimizer)
    with torch.no_grad():
        first.copy_(torch.arange(21))
    flat = optimizer.store.view(0, torch.float32, (21,), (1,))
    assert flat.tolist() == list(range(21))
    momentum = optimizer.state[first]["momentum_buffer"].clone()
    first.grad = torch.ones(21)
    optimizer.step()
    assert torch.equal(flat, first)
    torch.testing.assert_close(flat, torch.arange(21) - 0.1 * (0.9 * momentum + 1))


def test_sharing_twice_is_refused() -> None:
    optimizer = shared()
    with pytest.raises(RuntimeError, match="share_memory: expected an optimizer that is not"):
        optimizer.share_memory(workers=1)


def test_adding_a_group_is_refused() -> None:
    """A store never grows; nothing changes."""
    optimizer = shared()
    with pytest.raises(RuntimeError, match=r"add_param_group.*before share_memory"):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(2))]})
    assert len(optimizer.param_groups) == 1
    step(optimizer, 1)


@pytest.mark.parametrize("sync", SYNCS)
def test_no_parameters_in_memory(sync: str) -> None:
    """A store may hold only empty tensors."""
    optimizer: Any = asyncopt.Adam([Parameter(torch.zeros(0, 4))], sync=sync)
    optimizer.share_memory(workers=1)
    step(optimizer, 2)
    assert optimizer.store.version == 2


def test_errno_is_kept() -> None:
    """Out of descriptors: our error, with the system's as its cause."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    optimizer = asyncopt.SGD([Parameter(torch.zeros(3))])
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(asyncopt.SegmentError, match="cannot allocate") as info:
            optimizer.share_memory(workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(info.value.__cause__, OSError)
    assert info.value.__cause__.errno == errno.EMFILE
    optimizer.share_memory(workers=1)
