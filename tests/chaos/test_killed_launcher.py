"""The launcher is killed at random instants: nothing of its run is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .scene import LONG, dice, living, often, wait_for

LAUNCHER = Path(__file__).with_name("launcher.py")
TIMES = often(10, 500)
LIMIT = 2.0 if LONG else 30.0  # s for the workers of a dead launcher to be gone


def named() -> set[str]:
    """Named segments in shared memory, and files that only this package or torch creates."""
    temporary = (e.path for e in os.scandir(tempfile.gettempdir()))
    own = {path for path in temporary if Path(path).name.startswith(("asyncopt", "torch_", "pymp"))}
    return {entry.path for entry in os.scandir("/dev/shm")} | own


def live_and_die(launchers: subprocess.Popen[str], processes: int, age: float) -> None:
    """Kill a launcher ``age`` seconds after its run has had so many processes."""
    assert launchers.stdin is not None
    assert launchers.stdout is not None
    launchers.stdin.write("another\n")
    launchers.stdin.flush()
    launcher = int(launchers.stdout.readline())
    try:
        wait_for(lambda: len(living(launcher)) >= processes, 60, "workers start")
        time.sleep(age)
    finally:
        os.kill(launcher, signal.SIGKILL)
    wait_for(lambda: not living(launcher), LIMIT, "all workers are gone")


@pytest.mark.slow
def test_nothing_is_left(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    random = dice(request, record_property)
    before = named()
    with subprocess.Popen(
        [sys.executable, str(LAUNCHER)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as launchers:
        for _ in range(TIMES):
            live_and_die(launchers, 2, random.uniform(0, 2.5))
        live_and_die(launchers, 4, 0)  # the launcher, the fork server and both workers
    assert named() <= before
