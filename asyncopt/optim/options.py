"""Options of every optimizer besides its sync and its namesake's arguments."""

from __future__ import annotations

from typing import Any, TypedDict

import torch

from asyncopt.optim.catch_up import check_sparse_updates
from asyncopt.optim.delay import check_delay_options

__all__ = ["Options", "check_options"]


class Options(TypedDict, total=False):
    """Arguments of every optimizer besides `sync` and its namesake's."""

    audit: bool
    state_dtype: torch.dtype | None
    flat_grads: bool
    nonfinite: str | None
    staleness_lr: str | None
    delay_compensation: float | tuple[float, float] | None
    sparse_updates: str


def check_options(optimizer: Any) -> None:
    """Raises ValueError for an unknown option, or for options that exclude each other."""
    if optimizer.audit and optimizer.sync != "hogwild":
        raise ValueError(
            f"audit: expected sync='hogwild' (no other loses updates), got {optimizer.sync!r}"
        )
    if optimizer.nonfinite not in (None, "propagate", "skip"):
        raise ValueError(
            f"nonfinite: expected 'propagate', 'skip' or None, got {optimizer.nonfinite!r}"
        )
    check_delay_options(optimizer.staleness_lr, optimizer.delay_compensation, optimizer.sync)
    check_sparse_updates(optimizer.sparse_updates, optimizer.sync, optimizer.delay_compensation)
