"""Other users cannot access a run: neither its memory, its processes, nor a network port."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import torch

import asyncopt
from asyncopt.run import launch
from tests.other_user import as_root, as_somebody

pytestmark = as_root


def memory() -> list[int]:
    """This process's descriptors of memory without a name."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the one that listed the directory
            continue
        if target.startswith("/memfd:"):
            found.append(int(name))
    return found


def look_around(
    _worker: asyncopt.Worker,
    _optimizer: asyncopt.SGD,
    _data: npt.NDArray[np.float64],
    public: Path,
) -> tuple[list[str], list[str], int]:
    """In a worker: memory and process files that another user can open, and open ports."""
    # The descriptors themselves, got by whatever leak, and without any right to read or write.
    paths = [os.open(f"/proc/self/fd/{fd}", os.O_PATH) for fd in memory()]
    paths.append(os.open(public, os.O_PATH))
    memories = as_somebody(
        [lambda fd=fd: os.open(f"/proc/self/fd/{fd}", os.O_RDWR) for fd in paths]  # type: ignore[misc]
    )
    me = f"/proc/{os.getpid()}"
    process = as_somebody(
        [
            lambda: os.open(f"{me}/mem", os.O_RDONLY),
            lambda: os.listdir(f"{me}/fd"),
            lambda: os.open(f"{me}/environ", os.O_RDONLY),
            lambda: os.kill(os.getppid(), 0),
        ]
    )
    sockets = psutil.Process().net_connections("all")
    return memories, process, sum(s.status == psutil.CONN_LISTEN for s in sockets)


def test_another_user_gets_at_nothing_of_a_run(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = asyncopt.SGD(model.parameters(), lr=0.1, sync="leashed")
    public = tmp_path / "public"
    public.write_text("")
    public.chmod(0o666)
    # Large enough for memory of its own.
    run = launch(look_around, (optimizer, np.zeros(1 << 20), public), workers=1)
    ((memories, process, listening),) = run.results
    assert len(memories) > 3  # the store, the board, the mailbox, the data
    assert set(memories[:-1]) == {"EACCES"}
    assert memories[-1] == "done"  # the same attempt on what is open to all
    assert process == ["EACCES", "EACCES", "EACCES", "EPERM"]
    assert listening == 0
