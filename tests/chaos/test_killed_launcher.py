"""The launcher is killed at random instants of its life: nothing is left of its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from .scene import dice, marked, often, wait_for

LAUNCHER = Path(__file__).with_name("launcher.py")
TIMES = often(10, 500)
LIMIT = 2.0  # s for the workers of a dead launcher to be gone


def named() -> set[str]:
    """What has a name in shared memory, and files that only this package or torch makes."""
    temporary = (e.path for e in os.scandir(tempfile.gettempdir()))
    own = {path for path in temporary if Path(path).name.startswith(("asyncopt", "torch_", "pymp"))}
    return {entry.path for entry in os.scandir("/dev/shm")} | own


def live_and_die(age: float) -> int:
    """Kill a launcher ``age`` seconds after its first worker appeared; its run's processes then."""
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, str(LAUNCHER)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MARK": mark},
        stderr=subprocess.DEVNULL,
    ) as launcher:
        try:
            wait_for(lambda: len(list(marked(mark))) > 1, 60, "workers start")
            time.sleep(age)
            processes = len(list(marked(mark)))
        finally:
            launcher.send_signal(signal.SIGKILL)
        wait_for(lambda: not list(marked(mark)), LIMIT, "all workers are gone")
    return processes


def test_nothing_is_left(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> None:
    random = dice(request, record_property)
    before = named()
    seen = [live_and_die(random.uniform(0, 2.5)) for _ in range(TIMES)]
    assert max(seen) == 3  # both workers and the launcher
    assert named() <= before
