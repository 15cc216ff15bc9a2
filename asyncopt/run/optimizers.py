"""The optimizers among the arguments of a run, known by what they can do.

Any torch optimizer that can share its memory will do: a run needs no more of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeGuard

import torch

from asyncopt.optim.sharing import leaves
from asyncopt.store.ledger import Ledger

__all__ = ["SharedOptimizer", "find_optimizers", "leave_stores", "share"]


class SharedOptimizer(Protocol):
    """What a run asks of an asyncopt optimizer."""

    param_groups: list[dict[str, Any]]
    _sharing: Any  # its hold on the store, with release() for the worker's slot
    before_push: Callable[[], None] | None  # called first thing in every push

    @property
    def store(self) -> Any:
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


def share(optimizers: Sequence[SharedOptimizer], workers: int) -> None:
    """Move optimizers into stores with room for ``workers``, if they are not in one already.

    Raises:
        ValueError: one that is has not enough room, or would not give its workers what the
            parameters are here. Nothing was changed.
    """
    for i, optimizer in enumerate(optimizers):
        if optimizer.store is not None:
            _check_shared(f"optimizer {i}", optimizer, workers)
    for optimizer in optimizers:
        if optimizer.store is None:
            optimizer.share_memory(workers=workers)


def _check_shared(name: str, optimizer: SharedOptimizer, workers: int) -> None:
    room = optimizer.store.segment.workers - 1  # this process has a slot as well
    if workers > room:
        raise ValueError(
            f"workers: expected at most {room}, for which {name} was shared before, got {workers}; "
            f"call its share_memory(workers={workers}) before the first run"
        )
    if not optimizer.is_replica:
        return
    params = [param.detach() for group in optimizer.param_groups for param in group["params"]]
    here = [param.clone() for param in params]
    optimizer.pull()
    for k, (param, value) in enumerate(zip(params, here, strict=True)):
        if not torch.allclose(param, value, rtol=0, atol=0, equal_nan=True):
            for each, kept in zip(params, here, strict=True):
                each.copy_(kept)
            raise ValueError(
                f"params[{k}] of {name}: expected what its store holds, as its workers have "
                "replicas of that, got other values; call its pull() to drop them, or make a new "
                "optimizer of the model to train from them"
            )


def leave_stores(optimizers: Iterable[SharedOptimizer]) -> None:
    """Give the worker slots of a thread's optimizers back now.

    Their garbage collection would do that too, but a kept exception keeps their frames alive.
    """
    for optimizer in optimizers:
        optimizer._sharing.release()
