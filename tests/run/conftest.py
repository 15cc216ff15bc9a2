"""Beyond the census of all tests: no thread is left, and no setting changed."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from asyncopt.run.fork_server import OWNER


def children(pid: int | str = "self") -> set[int]:
    """The process ids of a process's living children."""
    found: set[int] = set()
    for task in Path("/proc").glob(f"{pid}/task/*"):
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:  # the thread has just ended
            continue
    return found


def descendants(pid: int) -> set[int]:
    """The process ids of its children, of their children, and so on."""
    found = children(pid)
    return found.union(*map(descendants, found))


def gone(pid: int) -> bool:
    """Whether a process is dead, though perhaps not yet reaped by its new parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def settings() -> tuple[dict[str, str], int]:
    """The environment and torch's thread count."""
    own = {name: text for name, text in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return own, torch.get_num_threads()


def threads() -> list[threading.Thread]:
    """Those of this process, but the owner of a fork server, which stays."""
    return [thread for thread in threading.enumerate() if thread.name != OWNER]


torch.optim.SGD([torch.zeros(1)])  # the first optimizer makes torch set an environment variable


@pytest.fixture(autouse=True)
def threads_and_settings() -> Iterator[None]:
    threads_before, settings_before = threads(), settings()
    yield
    assert threads() == threads_before
    assert settings() == settings_before
