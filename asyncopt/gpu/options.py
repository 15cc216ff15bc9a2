"""Options of an optimizer that its device does not have."""

from __future__ import annotations

import torch

__all__ = ["SYNCS", "check_options"]

#: How updates can reach a device's memory that other streams and processes write too. The others
#: are made of locks and versions, which live in a store, in host memory.
SYNCS = ("hogwild", "atomic")


def check_options(
    device: torch.device, *, sync: str, audit: bool, rowwise: bool, sparse_updates: str
) -> None:
    """Raises ValueError for an option of an optimizer that works on the CPU alone."""
    where = f"for parameters on {device}"
    elsewhere = "or move the model to the cpu"
    if sync not in SYNCS:
        raise ValueError(
            f"sync: expected {' or '.join(map(repr, SYNCS))} {where}, got {sync!r}; {elsewhere}"
        )
    if audit:
        raise ValueError(f"audit: expected False {where}, got True; {elsewhere}")
    if rowwise:
        raise ValueError(f"rowwise: expected False {where}, got True; {elsewhere}")
    if sparse_updates != "touched":
        raise ValueError(
            f"sparse_updates: expected 'touched' {where}, which takes dense gradients alone, got "
            f"{sparse_updates!r}; {elsewhere}"
        )
