"""After any end of a run, the launching process has the newest whole version."""

from __future__ import annotations

import copy
import os
import re
import signal
from typing import Any

import pytest
import torch
from torch import nn

import asyncopt
from asyncopt.errors import RunTimeout, WorkerError

from . import jobs

METHODS = (*asyncopt.syncs(), "LocalSteps", "ElasticAveraging")

ENDS: dict[str, tuple[Any, str | None]] = {
    "return": (None, None),
    "raise": (WorkerError, "out of patience"),
    "exit": (WorkerError, "sys.exit"),
    "kill": (WorkerError, "SIGKILL"),
    "timeout": (RunTimeout, "timeout: expected"),
    "Ctrl-C": (KeyboardInterrupt, None),
}


def made(method: str) -> tuple[nn.Module, Any]:
    model = nn.Linear(6, 3)
    if method in asyncopt.syncs():
        return model, asyncopt.Adam(model.parameters(), lr=0.1, sync=method)
    local = torch.optim.SGD(model.parameters(), lr=0.01)
    return model, getattr(asyncopt, method)(local, every=2)


@pytest.mark.slow
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("method", METHODS)
def test_the_parent_has_what_was_trained(method: str, end: str) -> None:
    model, optimizer = made(method)
    start = copy.deepcopy(model.state_dict())
    args = (model, optimizer, end, os.getpid())
    kind, message = ENDS[end]
    if kind is None:
        asyncopt.launch(jobs.train_and_end, args, 2, timeout=120)
    else:
        limit = 1.0 if end == "timeout" else 120.0
        with pytest.raises(kind, match=message) as raised:
            asyncopt.launch(jobs.train_and_end, args, 2, timeout=limit)
        assert optimizer.store is not None
        updates = f"after {optimizer.store.version:,} updates?\\."
        assert any(re.search(updates, note) for note in raised.value.__notes__)
    here = copy.deepcopy(model.state_dict())
    optimizer.pull()
    for name, value in model.state_dict().items():
        assert torch.equal(here[name], value), name
        if end != "timeout":  # its workers may not have trained yet
            assert not torch.equal(start[name], value), name


@pytest.mark.parametrize("sync", asyncopt.syncs())
def test_threads_leave_it_in_the_parent_too(sync: str) -> None:
    model, optimizer = made(sync)
    args = (model, optimizer, "raise", os.getpid())
    with pytest.raises(WorkerError, match="out of patience"):
        asyncopt.launch(jobs.train_and_end, args, 2, mode="thread", timeout=120)
    here = copy.deepcopy(model.state_dict())
    optimizer.pull()
    assert all(torch.equal(here[name], value) for name, value in model.state_dict().items())
    assert optimizer.store.version > 0


def test_rows_that_were_updated_lazily_are_up_to_date() -> None:
    """A run's end leaves what dense gradients would have left, also in rows it named early."""
    trained = []
    for sparse in (True, False):
        torch.manual_seed(0)
        table = nn.Embedding(8, 2, sparse=sparse)
        options = {"sparse_updates": "dense"} if sparse else {}
        optimizer = asyncopt.SGD(table.parameters(), lr=0.1, momentum=0.9, **options)  # type: ignore[arg-type]
        asyncopt.launch(jobs.look_up, (table, optimizer), 1, timeout=120)
        trained.append(table.weight.detach().clone())
    torch.testing.assert_close(trained[0], trained[1])


def test_a_signal_is_not_lost_while_the_model_is_brought_up_to_date() -> None:
    """The process's own handler is in place again when launch has raised."""
    model, optimizer = made("leashed")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        asyncopt.launch(jobs.train_and_end, (model, optimizer, "Ctrl-C", os.getpid()), 2)
    assert signal.getsignal(signal.SIGINT) is before
