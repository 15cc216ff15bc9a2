"""Refusal of optimizers whose updates would be lost in a worker.

A worker may step the optimizers of its run, which are in stores, and those that its function makes.
All others are private copies whose updates would be lost silently: optimizers that existed before
the function was called, such as the globals of a module that the worker imports, and unpickled
ones. They are refused at their first step.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["Origin", "allow_in_workers", "check", "copy_origin", "watch", "watching"]

_serials = itertools.count(1)
_counting = threading.Lock()
_watched = 0  # workers in this process


class _Worker(threading.local):
    """The worker that the calling thread belongs to.

    Attributes:
        entered: serial number that was taken when its function was called; 0 outside of workers.
        remedy: advice for the message of :func:`check`.
    """

    entered: int = 0
    remedy: str = ""


_worker = _Worker()


class Origin(torch.optim.Optimizer):
    """An optimizer with a serial number, by which those made in a worker are recognized.

    Unpickled optimizers have 0, because they were made elsewhere. A deep copy gets a new number.

    Attributes:
        before_push: called at the start of every push, before gradients are read; an exception that
            it raises ends the push. A run sets it on the optimizers that it shares. All others have
            :func:`check` while a worker is watched; copies start without.
    """

    before_push: Callable[[], None] | None = None

    _serial: float = 0

    @property
    def sharing(self) -> Any:
        """Hold on a store, with the number of its slot as ``worker``; None without a store."""
        return None

    def _take_serial(self) -> None:
        """Give a new optimizer its number; 0 if an import in a worker makes it."""
        self._serial = 0 if _watched and _is_imported() else next(_serials)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        clone._take_serial()
        return clone


def allow_in_workers(optimizer: Origin) -> None:
    """Lets every worker step an optimizer that is private on purpose."""
    optimizer._serial = math.inf


def copy_origin(original: Origin, copy: Origin) -> None:
    """Lets the same workers step a copy that may step the original."""
    copy._serial = original._serial


@contextlib.contextmanager
def watch(remedy: str, *, whole_process: bool) -> Iterator[None]:
    """Context in which a worker's function runs, and steps of its optimizers are checked.

    Args:
        remedy: advice for the message of :func:`check`.
        whole_process: the worker is this process, with all its threads, not the calling thread.
    """
    worker: Any = _Worker if whole_process else _worker
    worker.entered, worker.remedy = next(_serials), remedy
    _watch(1)
    try:
        yield
    finally:
        _watch(-1)
        worker.entered, worker.remedy = 0, ""


def _watch(more: int) -> None:
    """Count workers; steps of all optimizers are checked while there are any."""
    global _watched
    with _counting:
        _watched += more
        Origin.before_push = check if _watched else None  # type: ignore[assignment]  # a method


def watching() -> bool:
    """True while a worker's function runs in this process."""
    return _watched > 0


def check(optimizer: Origin) -> None:
    """Raise RuntimeError in a worker that neither shares the optimizer nor has made it.

    Slot 0 of a store belongs to the process or thread that made the store, and to no worker.
    """
    entered, sharing = _worker.entered, optimizer.sharing
    if entered < optimizer._serial or entered == 0 or (sharing is not None and sharing.worker != 0):
        return
    raise RuntimeError(
        f"step: expected an optimizer that the run shares, or one that fn has made, got "
        f"{type(optimizer).__name__} that was made before fn was called, by an import, or "
        f"by unpickling: its updates would be neither shared, counted nor saved; {_worker.remedy}"
    )


def _is_imported() -> bool:
    """True while a module is being imported by the calling thread."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "<module>":
            spec = frame.f_globals.get("__spec__")
            if getattr(spec, "_initializing", False):
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
