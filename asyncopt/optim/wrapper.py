"""Base of optimizers that wrap a local optimizer and exchange parameters between its steps."""

from __future__ import annotations

from typing import Any

import torch

from asyncopt.optim.base import Optimizer
from asyncopt.optim.origin import Origin

__all__ = ["Wrapper", "holds"]


class Wrapper(Origin):
    """A torch optimizer whose parameter groups and state are those of another.

    So learning-rate schedulers, gradient scalers and clipping take either.

    Attributes:
        optimizer: takes the local steps.
        every: local steps between two exchanges.
    """

    optimizer: torch.optim.Optimizer
    every: int

    @staticmethod
    def _check(optimizer: Any, every: Any) -> None:
        """Raises where `optimizer` cannot take local steps, or `every` is not their number."""
        if not isinstance(optimizer, torch.optim.Optimizer) or isinstance(optimizer, Wrapper):
            raise TypeError(
                f"optimizer: expected a torch optimizer, got {type(optimizer).__name__}; pass the "
                "one that takes the local steps"
            )
        if isinstance(optimizer, Optimizer) and optimizer.store is not None:
            raise ValueError(
                "optimizer: expected one that is not shared, got one with a store; every worker "
                "needs its own"
            )
        if isinstance(optimizer, Optimizer) and optimizer.sparse_updates == "dense":
            raise ValueError(
                "optimizer: expected sparse_updates='touched', as parameters are read whole, got "
                "'dense'; use dense gradients"
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every: expected a number of steps >= 1, got {every!r}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Instead of the base's constructor, which would make groups and state of its own."""
        super().__setstate__({**state, "defaults": state["optimizer"].defaults})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Parameter groups of the local optimizer."""
        return self.optimizer.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """State of the local optimizer."""
        return self.optimizer.state

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as the local optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: what is exchanged was laid out for the parameters that there were at first."""
        raise RuntimeError(
            "add_param_group: expected all groups at the start; add them to the local optimizer "
            "before it is wrapped"
        )

    def _params(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def holds(optimizer: object, params: list[torch.Tensor]) -> bool:
    """True if it is an optimizer of exactly these parameters, in this order."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return False
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    return held == [id(p) for p in params]
