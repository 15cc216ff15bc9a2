"""Lazy dense updates of rows: their options, and the hook that catches up with looked-up rows."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from asyncopt.optim.checks import check_range
from asyncopt.optim.kernels import syncs

__all__ = ["CatchUp", "check_sparse_updates", "checked_rows"]


def check_sparse_updates(sparse_updates: str, sync: str, delay_compensation: object) -> None:
    """Raises ValueError if the option, or what it is combined with, cannot be had."""
    if sparse_updates not in ("touched", "dense"):
        raise ValueError(f"sparse_updates: expected 'touched' or 'dense', got {sparse_updates!r}")
    if sparse_updates == "touched":
        return
    if syncs()[sync]["replica"]:
        in_place = ", ".join(name for name, contract in syncs().items() if not contract["replica"])
        raise ValueError(
            f"sparse_updates: expected 'touched' under sync={sync!r}, whose every push copies all "
            f"rows, got 'dense'; use one of {in_place}, or dense gradients"
        )
    if delay_compensation is not None:
        raise ValueError(
            "delay_compensation: expected None with sparse_updates='dense', as it would take "
            f"replayed updates of rows for pushes of others, got {delay_compensation!r}"
        )


def checked_rows(param: torch.Tensor, rows: Any) -> torch.Tensor:
    """Row indices as the engine reads them.

    Raises:
        ValueError: they are no indices of rows of `param`.
    """
    if not isinstance(rows, torch.Tensor):
        raise ValueError(f"rows: expected a tensor of integers, got {type(rows).__name__}")
    known = rows.layout == torch.strided and rows.dtype in (torch.int64, torch.int32)
    if not known or rows.device != param.device:
        raise ValueError(
            f"rows: expected torch.int64 or torch.int32 on {param.device}, got {rows.dtype} on "
            f"{rows.device}"
        )
    checked: torch.Tensor = rows.detach().reshape(-1).to(torch.int64).contiguous()
    check_range("rows: expected indices", checked, len(param) if param.ndim else 0)
    return checked


class _CatchesUp(Protocol):
    def replay(self, param: torch.Tensor, rows: torch.Tensor) -> bool: ...


class CatchUp:
    """A forward pre-hook of an embedding: its optimizer catches up with the rows of the input.

    The version counter of the weight does not change: the backward pass of an earlier lookup, which
    may have saved the weight, reads only its own rows, and these miss no push before the next step.

    Args:
        optimizer: the optimizer that trains the embedding. A copy of the module has one of its own.
    """

    def __init__(self, optimizer: _CatchesUp) -> None:
        self.optimizer = optimizer

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Called with the arguments of the module's forward pass."""
        self.optimizer.replay(module.weight, args[0] if args else kwargs["input"])
