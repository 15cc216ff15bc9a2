"""Leak check around every test: its processes, descriptors and files must be gone at its end."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from multiprocessing import resource_tracker
from pathlib import Path

import psutil
import pytest

from asyncopt.run.fork_server import kept

from .private_shm import mount_private_shm

GRACE = 2.0  # s for a dead child to be reaped and for garbage to be collected

# Tests start hundreds of processes that import torch, each for 1.8 s of a processor's time; for
# 0.15 s of these it looks through all installed packages for devices of theirs.
os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")

#: The kernel's names of descriptors of shared memory and of channels between processes.
KINDS = ("/memfd:", "/dev/shm/", "socket:", "pipe:", "anon_inode:[pidfd]")

#: Files that torch and asyncopt would leave if they shared memory by name.
NAMES = ("asyncopt", "torch_")


def _children() -> Counter[str]:
    """Child processes, but those that stay: Python's resource tracker, the fork servers."""
    stay = {getattr(resource_tracker._resource_tracker, "_pid", None)}
    stay |= {server.pid for server in kept.servers}
    found: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:  # the thread has just ended
            continue
        found.update(f"process {pid}" for pid in children if int(pid) not in stay)
    return found


def _descriptors() -> Counter[str]:
    stay = {getattr(resource_tracker._resource_tracker, "_fd", None)}
    stay |= {server.fileno() for server in kept.servers}
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the one that listed the directory
            continue
        if target.startswith(KINDS) and int(fd) not in stay:
            found[f"descriptor of {target}"] += 1
    return found


def _files() -> Counter[str]:
    shared = (entry.path for entry in os.scandir("/dev/shm"))
    temporary = (e.path for e in os.scandir(tempfile.gettempdir()) if e.name.startswith(NAMES))
    return Counter([*shared, *temporary])


def _held_by_others() -> set[int]:
    """Inodes of named segments that processes map which no test of this process has started.

    A semaphore is mapped before it has its name, so that its name is not among the mappings.
    """
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    held = set()
    for pid in set(psutil.pids()) - own:
        with contextlib.suppress(OSError):  # it has just ended, or is another user's
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
            held |= {int(line.split()[4]) for line in lines if "/dev/shm/" in line}
    return held


def _census() -> Counter[str]:
    return _children() + _descriptors() + _files()


def _left_since(before: Counter[str]) -> Counter[str]:
    left = _census() - before
    if segments := [what for what in left if what.startswith("/dev/shm/")]:
        held = _held_by_others()
        for path in segments:
            with contextlib.suppress(FileNotFoundError):  # it has just gone
                if os.stat(path).st_ino in held:
                    del left[path]
    return left


failed = pytest.StashKey[bool]()
shared_shm = pytest.StashKey[str | None]()


def pytest_report_header(config: pytest.Config) -> str:
    """Report whether files of other programs can disturb the leak check."""
    reason = config.stash[shared_shm]
    return "/dev/shm: " + ("our own" if reason is None else f"shared with others ({reason})")


def pytest_configure(config: pytest.Config) -> None:
    """Lets tests of Ctrl-C work in a background job, whose shell had it ignored.

    The tests do not see what other programs write in /dev/shm and among temporary files.
    """
    config.stash[shared_shm] = mount_private_shm()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # tmp_path stays there
    directory = tempfile.TemporaryDirectory(prefix="tests_")
    config.add_cleanup(directory.cleanup)
    os.environ["TMPDIR"] = tempfile.tempdir = directory.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Record failures: a failed test's traceback keeps its objects alive."""
    report = yield
    if report.failed:
        item.stash[failed] = True
    return report


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves a process, a descriptor or a named segment behind."""
    before = _census()
    yield
    if request.node.stash.get(failed, False):
        return
    deadline = time.monotonic() + GRACE
    left = _left_since(before)
    while left:
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {', '.join(left.elements())}")
        gc.collect()
        time.sleep(0.01)
        left &= _left_since(before)  # what comes and goes meanwhile is not this test's
