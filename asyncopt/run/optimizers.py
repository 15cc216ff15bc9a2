"""The optimizers among the arguments of a run, known by what they can do.

Any torch optimizer that can share its memory will do: a run needs no more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeGuard

import torch

from asyncopt.optim.sharing import leaves
from asyncopt.store.ledger import Ledger

__all__ = ["SharedOptimizer", "find_optimizers", "leave_stores"]


class SharedOptimizer(Protocol):
    """What a run asks of an asyncopt optimizer."""

    _sharing: Any  # its hold on the store, with release() for the worker's slot
    before_push: Callable[[], None] | None  # called first thing in every push

    @property
    def store(self) -> object | None:
        """The store that holds the parameters; None until it is shared."""

    @property
    def is_replica(self) -> bool:
        """Whether the model holds a copy of the store's parameters."""

    def share_memory(self, workers: int) -> object:
        """Move parameters and state into a store with room for ``workers``."""

    def pull(self) -> object:
        """Refresh a replica from the store."""

    def ledger(self) -> Ledger:
        """The counters of all workers."""


def _is_shared_optimizer(item: object) -> TypeGuard[SharedOptimizer]:
    return isinstance(item, torch.optim.Optimizer) and hasattr(type(item), "store")


def find_optimizers(args: tuple[Any, ...]) -> list[SharedOptimizer]:
    """Each asyncopt optimizer in ``args`` once, also inside (nested) lists, tuples and dicts."""
    return [item for item in leaves(args) if _is_shared_optimizer(item)]


def leave_stores(optimizers: Iterable[SharedOptimizer]) -> None:
    """Give the worker slots of a thread's optimizers back now.

    Their garbage collection would do that too, but a kept exception keeps their frames alive.
    """
    for optimizer in optimizers:
        optimizer._sharing.release()
