"""A step that a LockTimeout ends, and that the caller repeats, is taken once."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import pytest
import torch
from torch.nn import Parameter

import asyncopt
from asyncopt import _core
from asyncopt.optim import thread_clone

from .cases import params_of

WORKERS, STEPS, SIZE = 3, 60, 100_000
LOSSLESS = [each["name"] for each in _core.syncs() if not each["may_lose"]]


def keep_stepping(optimizer: Any, timeouts: list[str]) -> None:
    """Takes STEPS steps, each repeated until it succeeds."""
    for param in params_of(optimizer):
        param.grad = torch.ones_like(param)
    for _ in range(STEPS):
        while True:
            try:
                optimizer.step()
                break
            except asyncopt.LockTimeout as timeout:
                timeouts.append(str(timeout))


@pytest.mark.parametrize("sync", LOSSLESS)
def test_a_repeated_step_is_taken_once(sync: str) -> None:
    """Workers with a lock timeout that is too short, which repeat steps that timed out."""
    params = [Parameter(torch.zeros(SIZE, dtype=torch.float64)) for _ in range(2)]
    optimizer = asyncopt.SGD(params, lr=1.0, maximize=True, sync=sync)
    optimizer.share_memory(workers=WORKERS, lock_timeout=1e-6)
    clones = [thread_clone((optimizer,))[0] for _ in range(WORKERS)]
    timeouts: list[str] = []
    threads = [threading.Thread(target=keep_stepping, args=(clone, timeouts)) for clone in clones]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("call step() again" in text for text in timeouts)
    ledger = optimizer.ledger()
    assert ledger.version == ledger.pushes == WORKERS * STEPS
    assert ledger.unfinished == 0
    optimizer.pull()
    for param in params_of(optimizer):
        assert param.unique().tolist() == [WORKERS * STEPS], f"{len(timeouts)} timeouts"


SEQUENCE, MUTEX = 192, 384  # offsets in a segment; tests/cpp/test_segment.cc


def test_gradients_of_a_torn_replica_are_refused() -> None:
    """A pull that times out in the middle leaves parts of two versions, until the next pull.

    The second parameter lies on the sequence, which it makes odd: a writer comes in the middle.
    """
    odd = torch.tensor([7]).view(torch.float64)
    params = [Parameter(torch.ones(1, dtype=torch.float64)), Parameter(odd)]
    optimizer = asyncopt.SGD(params, lr=1.0, sync="seqlock")
    optimizer.share_memory(workers=1, lock_timeout=0.01)
    assert optimizer.store is not None
    memory = optimizer.store.memory
    for param in params:
        param.grad = torch.ones_like(param)
    params[1].data = memory[SEQUENCE : SEQUENCE + 8].view(torch.float64)
    optimizer.flush()  # pushes that as a write, so that pulls go there
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        mutex = ctypes.c_void_p(memory.data_ptr() + MUTEX)
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
        held.set()
        over.wait()
        ctypes.CDLL(None).pthread_mutex_unlock(mutex)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        with pytest.raises(asyncopt.LockTimeout, match="parts of several versions now: pull"):
            optimizer.pull()
        with pytest.raises(RuntimeError, match=r"^step: expected gradients of one .*torn"):
            optimizer.step()
    finally:
        over.set()
        thread.join()
        params[1].data = torch.zeros_like(odd)
    optimizer.pull()
    optimizer.step()
    assert params[0].item() == 0
    assert optimizer.ledger().pushes == 1
