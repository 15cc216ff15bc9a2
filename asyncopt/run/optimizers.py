"""Interface of the optimizers of a run.

A run works with any torch optimizer that implements `SharedOptimizer`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch

from asyncopt.optim.optimizers import rules
from asyncopt.optim.reach import Trained
from asyncopt.store.ledger import Ledger
from asyncopt.warn import warn_caller

__all__ = ["SharedOptimizer", "leave_stores", "shared", "warn_of_unshared"]

_sharing = threading.Lock()  # two threads may launch the same optimizers at once


class SharedOptimizer(Protocol):
    """Interface of a shared optimizer that a run uses."""

    param_groups: list[dict[str, Any]]
    before_push: Callable[[], None] | None  # called first thing in every push
    after_push: Callable[[bool], None] | None  # called after it: False after a push of some rows
    after_partial_push: Callable[[], None] | None  # called when parameters had no gradient

    @property
    def sharing(self) -> Any:
        """Its hold on the store, with ``release()`` for the worker's slot; None until shared."""

    @property
    def store(self) -> Any:
        """The store that holds the parameters; None until it is shared."""

    @property
    def is_replica(self) -> bool:
        """True if the model holds a copy of the store's parameters."""

    def share_memory(self, workers: int) -> object:
        """Move parameters and state into a store with room for ``workers``."""

    def fits_store(self) -> bool:
        """True if the store is laid out for the parameters as they are now."""

    def share_again(self, workers: int) -> object:
        """Move parameters, as they are here, and state to a new store."""

    def newest(self) -> list[torch.Tensor]:
        """Values that a pull would give a replica now, without the replica's own writes."""

    def pull(self) -> object:
        """Refresh a replica from the store."""

    def flush(self) -> object:
        """Write this worker's pending pushes and its writes to a replica to the store."""

    def catch_up(self) -> object:
        """Apply the pending updates of lazily updated rows."""

    def ledger(self) -> Ledger:
        """The counters of all workers."""


def warn_of_unshared(trained: Trained) -> None:
    """Warn of torch's own optimizers: no sync, and private state in each worker."""
    wrapped = {id(getattr(each, "optimizer", None)) for each in trained.others}
    kinds = {type(each) for each in trained.others if id(each) not in wrapped}
    for kind in sorted(kinds, key=lambda kind: kind.__name__):
        name = f"{kind.__module__}.{kind.__name__}"
        remedy = f"; use asyncopt.{kind.__name__}" if kind.__name__ in rules() else ""
        warn_caller(
            f"args: expected optimizers of asyncopt, got {name}: each worker steps without a sync, "
            f"with state of its own, and its updates are neither counted nor saved{remedy}"
        )


@contextlib.contextmanager
def shared(optimizers: Sequence[SharedOptimizer], workers: int) -> Iterator[None]:
    """Context of a run: optimizers are in stores with room for ``workers``, and stay there.

    Raises:
        RuntimeError, ValueError: as from :func:`share`, or another run is training one of them.
    """
    with _sharing:
        for i, optimizer in enumerate(optimizers):
            if optimizer.store is not None:
                optimizer.sharing.check_idle(f"optimizer {i}")
        share(optimizers, workers)
        for optimizer in optimizers:
            optimizer.sharing.is_in_run = True
    try:
        yield
    finally:
        for optimizer in optimizers:
            optimizer.sharing.is_in_run = False


def share(optimizers: Sequence[SharedOptimizer], workers: int) -> None:
    """Move optimizers into stores with room for ``workers``.

    An optimizer keeps its store, unless the store has too few slots, the parameters were replaced,
    or parameters of a replica were written since. Then the parameters of this process move to a new
    store.

    Raises:
        RuntimeError: a store to be replaced has other workers. Nothing was changed.
        ValueError: parameters were written here, but the store has newer ones. Nothing was changed.
    """
    _check_apart(optimizers)
    again = set()
    for i, optimizer in enumerate(optimizers):
        if optimizer.store is None:
            continue
        room = optimizer.store.segment.workers - 1  # this process has a slot as well
        if not (
            optimizer.fits_store() and _refresh(f"optimizer {i}", optimizer) and workers <= room
        ):
            optimizer.sharing.check_last("workers")
            again.add(id(optimizer))
    for optimizer in optimizers:
        if optimizer.store is None:
            optimizer.share_memory(workers=workers)
        elif id(optimizer) in again:
            optimizer.share_again(workers)


def _check_apart(optimizers: Sequence[SharedOptimizer]) -> None:
    """Raise ValueError if two optimizers update the same parameter in different stores."""
    owners: dict[int, str] = {}
    for i, optimizer in enumerate(optimizers):
        params = [param for group in optimizer.param_groups for param in group["params"]]
        for k, param in enumerate(params):
            name = f"params[{k}] of optimizer {i}"
            if (owner := owners.setdefault(id(param), name)) != name:
                raise ValueError(
                    f"{name}: expected a parameter of one optimizer only, got {owner}; give each "
                    "parameter to one optimizer"
                )


def _refresh(name: str, optimizer: SharedOptimizer) -> bool:
    """Bring a replica up to date; if it was written since, return False and change nothing."""
    if not optimizer.is_replica:
        return True
    segment, slot = optimizer.store.segment, optimizer.sharing.worker
    pulled = segment.pulled(slot)
    isnewest = pulled == segment.version
    params = [param.detach() for group in optimizer.param_groups for param in group["params"]]
    for k, (param, value) in enumerate(zip(params, optimizer.newest(), strict=True)):
        if torch.allclose(param, value, rtol=0, atol=0, equal_nan=True):
            continue
        segment.pull_mark(slot, pulled)
        if isnewest:
            return False
        raise ValueError(
            f"params[{k}] of {name}: expected those that were last pulled, as its store has newer "
            "ones, got other values; call its pull() to keep what was written and take the rest "
            "from the store, or make a new optimizer of the model to train from these"
        )
    optimizer.pull()
    return True


def leave_stores(optimizers: Iterable[SharedOptimizer]) -> None:
    """Release the worker slots of a thread's optimizers now.

    Garbage collection would release them too, but a stored exception keeps their frames alive.
    """
    for optimizer in optimizers:
        optimizer.sharing.release()
