"""Link between an optimizer and a replica of its parameters on a device."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["How", "Replica", "slowed"]

#: How to push: groups, state, hyperparameters, threads, seed, audit, whether to skip what is not
#: finite.
How = tuple[list[dict[str, Any]], Any, list[tuple[Any, ...]], int, int, bool, bool]


def slowed(how: How, scale: float) -> How:
    """The same with learning rates times `scale`."""
    groups, state, hyper, *others = how
    return groups, state, [(lr * scale, *rest) for lr, *rest in hyper], *others


class Replica(Protocol):
    """Link between an optimizer and its store for parameters on a device."""

    def step(self) -> int:
        """Pushes the parameters' gradients, perhaps in the background; returns their number."""

    def publish(self) -> None:
        """Writes changes of the parameters since they were pulled to the store."""

    def pull(self) -> None:
        """Refreshes parameters and state from the store."""

    def flush(self) -> None:
        """Wait for background transfers."""
