"""Private interfaces of CPython that the fork server needs, and the reason for each.

CPython documents none of them. `tests/run/test_fork_server.py` fails where one has changed.
"""

from __future__ import annotations

import atexit
import os
import weakref
from multiprocessing import resource_tracker, spawn
from typing import Any

__all__ = [
    "forget_exit_handlers",
    "run_exit_handlers",
    "run_spawned",
    "set_tracker",
    "tracker",
]


def tracker() -> int | None:
    """Descriptor of this process's resource tracker; None if none runs.

    The public `ensure_running` would start one, a process that named segments alone need.
    """
    return getattr(resource_tracker._resource_tracker, "_fd", None)


def set_tracker(fd: int | None) -> None:
    """Use the resource tracker of another process."""
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd = fd


def run_spawned(start: int) -> int:
    """Run what a pipe says, as a process does that multiprocessing has spawned; its exit code.

    The public `spawn_main` ends the interpreter, which takes 0.2 s for all that was imported.
    """
    return spawn._main(start, os.dup(start))


def forget_exit_handlers() -> None:
    """Let no finalizer of a module that was imported up to now run at exit.

    Those of torch would take its operators back, in every fork.
    """
    registry: Any = weakref.finalize
    for finalizer in list(registry._registry):
        finalizer.atexit = False


def run_exit_handlers() -> None:
    """Run what was registered with `atexit`, before an exit by ``os._exit``."""
    atexit._run_exitfuncs()
