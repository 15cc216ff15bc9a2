"""Too little memory is an error before anything has changed, never a SIGBUS later."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt.store import Layout, Store, TensorSpec

from .looks import SYNCS, descriptors, file_size_limit, mappings, params_of, step


@pytest.mark.parametrize("sync", SYNCS)
def test_every_size_below_what_is_needed(sync: str) -> None:
    """Refused with how much was asked for; the optimizer stays private and goes on."""
    optimizer = asyncopt.Adam([Parameter(torch.ones(5000))], sync=sync)
    twin = asyncopt.Adam([Parameter(torch.ones(5000))], sync=sync)
    twin.share_memory(workers=1)
    assert twin.store is not None
    needed = twin.store.nbytes
    before = (descriptors(), mappings())
    step(optimizer, 1)
    for limit in (0, 1, 4095, 4096, *range(8192, needed, 8192), needed - 1):
        with (
            file_size_limit(limit),
            pytest.raises(asyncopt.SegmentError, match=f"cannot allocate {needed:,} bytes"),
        ):
            optimizer.share_memory(workers=1)
        assert optimizer.store is None
        assert (descriptors(), mappings()) == before
    step(optimizer, 1, first=1)
    with file_size_limit(needed):
        optimizer.share_memory(workers=1)
    step(optimizer, 1, first=2)
    step(twin, 3)
    assert torch.equal(*(params_of(o)[0] for o in (optimizer, twin)))


@pytest.mark.parametrize("exponent", [40, 45, 55, 58, 59, 60, 61, 62])
@pytest.mark.parametrize("sync", SYNCS)
def test_more_than_the_machine_has(
    sync: str, exponent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the allocation: the kernel would overcommit and then kill processes."""

    def allocate(fd: int, offset: int, length: int) -> NoReturn:
        pytest.fail(f"asked the kernel for {length:,} bytes")

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    specs = [TensorSpec((1 << exponent,), (1,), torch.float64, torch.float64, 0, 0)]
    with pytest.raises(asyncopt.SegmentError, match=r"cannot allocate [\d,]+ bytes"):
        Store(Layout(specs), sync=sync, workers=8, lock_timeout=1.0)
