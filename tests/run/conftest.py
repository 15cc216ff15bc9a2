"""Every test here leaves no child, thread or descriptor behind and changes no setting."""

from __future__ import annotations

import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def children(pid: int | str = "self") -> set[int]:
    """The process ids of a process's living children."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:  # the thread has just ended
            continue
    return found


def gone(pid: int) -> bool:
    """Whether a process is dead, though perhaps not yet reaped by its new parent."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


def descriptors() -> Counter[str]:
    """What this process has open, by the kernel's name for it."""
    gc.collect()
    names: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            names[os.readlink(f"/proc/self/fd/{fd}")] += 1
        except OSError:  # the one that listed the directory
            continue
    return names


def settings() -> tuple[dict[str, str], int]:
    """The environment and torch's thread count."""
    own = {name: text for name, text in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return own, torch.get_num_threads()


@pytest.fixture(autouse=True)
def census() -> Iterator[None]:
    before = (children(), descriptors(), set(threading.enumerate()))
    settings_before = settings()
    yield
    assert (children(), descriptors(), set(threading.enumerate())) == before
    assert settings() == settings_before
