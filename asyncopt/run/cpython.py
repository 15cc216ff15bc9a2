"""Private interfaces of CPython that the fork server needs, and the reason for each.

CPython documents none of them. `tests/run/test_fork_server.py` fails if one changes.
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

    The public `ensure_running` would start a tracker process, which only named segments need.
    """
    return getattr(resource_tracker._resource_tracker, "_fd", None)


def set_tracker(fd: int | None) -> None:
    """Use the resource tracker of another process."""
    tracker: Any = resource_tracker._resource_tracker
    tracker._fd = fd


def run_spawned(start: int) -> int:
    """Run the job from a pipe, as a process spawned by multiprocessing does; return its exit code.

    The public `spawn_main` also finalizes the interpreter, which takes 0.2 s with torch imported.
    """
    return spawn._main(start, os.dup(start))


def forget_exit_handlers() -> None:
    """Disable the exit finalizers of all modules imported so far.

    Those of torch would unregister its operators, in every fork.
    """
    registry: Any = weakref.finalize
    for finalizer in list(registry._registry):
        finalizer.atexit = False


def run_exit_handlers() -> None:
    """Run the `atexit` handlers; ``os._exit`` would skip them."""
    atexit._run_exitfuncs()
