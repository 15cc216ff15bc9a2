"""Shared parts of the chaos tests: repetitions, random numbers, and progress of workers."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

LONG = os.environ.get("ASYNCOPT_CHAOS") == "long"  # many times more, on an idle machine
SEED = int(os.environ.get("ASYNCOPT_CHAOS_SEED", "0"))


def often(short: int, long: int) -> int:
    """Number of repetitions, in CI and in a long run (``ASYNCOPT_CHAOS=long``)."""
    return long if LONG else short


def dice(request: pytest.FixtureRequest, record: Callable[[str, object], None]) -> random.Random:
    """The test's random numbers; ``ASYNCOPT_CHAOS_SEED`` sets the seed, which is recorded."""
    seed = f"{request.node.name}/{SEED}"
    record("seed", seed)
    print(f"seed {seed}")
    return random.Random(seed)


def now() -> float:
    """Seconds on the clock by which the kernel notes when processes start."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_for(condition: Callable[[], object], limit: float, what: str) -> float:
    """Seconds until ``condition()`` held; fails after ``limit`` seconds."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < limit, f"not within {limit:g} s: {what}"
        time.sleep(0.002)
    return time.monotonic() - start


@dataclass
class Scene:
    """Shared memory for the progress of workers; each tensor has an element per rank.

    Attributes:
        process: id of the running process.
        born: when that process was started, on the clock of ``now()``.
        pusher: id of the process that made the last push.
        pushed: when that was, on the same clock.
        effort: seconds for which that process ran until its first push.
        over: one element: whether the workers are to return.
    """

    process: torch.Tensor
    born: torch.Tensor
    pusher: torch.Tensor
    pushed: torch.Tensor
    effort: torch.Tensor
    over: torch.Tensor

    @classmethod
    def of(cls, workers: int) -> Scene:
        integers = torch.zeros(3, workers, dtype=torch.int64)
        seconds = torch.zeros(3, workers, dtype=torch.float64)
        return cls(
            process=integers[0],
            pusher=integers[1],
            over=integers[2, :1],
            born=seconds[0],
            pushed=seconds[1],
            effort=seconds[2],
        )

    def enter(self, rank: int) -> None:
        started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        self.born[rank] = int(started) / os.sysconf("SC_CLK_TCK")
        self.process[rank] = os.getpid()

    def push(self, rank: int) -> None:
        self.pushed[rank] = now()
        if self.pusher[rank] != os.getpid():
            self.effort[rank] = time.process_time()
            self.pusher[rank] = os.getpid()


def state(process: int) -> str:
    """The letter that the kernel gives a process; "X" if there is none."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def living(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and state(int(entry.name)) not in "XZ":
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
    return found
