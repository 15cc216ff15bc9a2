"""A step that a LockTimeout ends, and that the caller repeats, is taken once."""

from __future__ import annotations

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
    """Workers that give each other no time to finish, and repeat what timed out."""
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
