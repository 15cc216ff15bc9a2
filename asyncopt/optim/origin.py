"""Where optimizers come from, and which of them a worker may step.

A worker steps optimizers of its run, which are in stores, and those that its function makes for
itself. All others are private copies whose updates would be lost without a word: those that were
there before the function was called, such as the globals of a module that the worker imports, and
those that come out of a pickle. They are refused at their first step.
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

__all__ = ["Origin", "check", "watch", "watching"]

_births = itertools.count(1)
_counting = threading.Lock()
_watched = 0  # workers in this process


class _Scene(threading.local):
    """What is known of the worker that the thread belongs to.

    Attributes:
        entered: number of the birth at which its function was called; 0 outside of workers.
        remedy: what to do instead of stepping a copy.
    """

    entered: int = 0
    remedy: str = ""


_scene = _Scene()


class Origin(torch.optim.Optimizer):
    """An optimizer that has a number from its birth on.

    Those that were unpickled have 0, as they were made elsewhere. A deep copy is made where it is
    copied.

    Attributes:
        before_push: called first thing in every push, before gradients are looked at; what it
            raises ends the push. A run sets it on the optimizers that it shares. All others have
            :func:`check` while a worker is watched, and copies start without.
    """

    before_push: Callable[[], None] | None = None

    _born: float = 0
    _sharing: Any

    def _be_born(self) -> None:
        """Number an optimizer that is made here and now; an import makes none for a worker."""
        self._born = 0 if _watched and _is_imported() else next(_births)

    def _belong_to_worker(self) -> None:
        """Let every worker step it, as it is meant to be private."""
        self._born = math.inf

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        clone._be_born()
        return clone


@contextlib.contextmanager
def watch(remedy: str, *, whole_process: bool) -> Iterator[None]:
    """Context in which a worker's function runs.

    Args:
        remedy: what the message of :func:`check` advises.
        whole_process: the worker is this process, with all its threads, not the calling thread.
    """
    scene: Any = _Scene if whole_process else _scene
    scene.entered, scene.remedy = next(_births), remedy
    _watch(1)
    try:
        yield
    finally:
        _watch(-1)
        scene.entered, scene.remedy = 0, ""


def _watch(more: int) -> None:
    """Count workers; steps of all optimizers are checked while there are any."""
    global _watched
    with _counting:
        _watched += more
        Origin.before_push = check if _watched else None  # type: ignore[assignment]  # a method


def watching() -> bool:
    """Whether this process has workers that are watched."""
    return _watched > 0


def check(optimizer: Origin) -> None:
    """Raise RuntimeError in a worker that neither shares the optimizer nor has made it.

    A store that this very process (or thread) has made is no worker's.
    """
    entered, sharing = _scene.entered, optimizer._sharing
    if entered < optimizer._born or entered == 0 or (sharing is not None and sharing.worker != 0):
        return
    raise RuntimeError(
        f"step: expected an optimizer that the run shares, or one that fn has made, got "
        f"{type(optimizer).__name__} that was made before fn was called, or that an import or a "
        f"pickle brought: its updates would be neither shared, counted nor saved; {_scene.remedy}"
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
