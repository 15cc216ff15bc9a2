"""Which devices workers can have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["check_devices"]


def check_devices(devices: Any) -> tuple[torch.device, ...]:
    """The devices that a list names, each with its index.

    Args:
        devices: one per worker: "cpu", "cuda" (the first), "cuda:1" or a ``torch.device``.

    Raises:
        TypeError: it is not a list of such names.
        ValueError: it is empty, or this machine or this torch has no such device.
    """
    if isinstance(devices, str | torch.device) or not isinstance(devices, Sequence):
        raise TypeError(
            f"devices: expected a list with one device for each worker, got {devices!r}; for two "
            "workers write ['cuda:0', 'cuda:0']"
        )
    if not devices:
        raise ValueError("devices: expected one device for each worker, got none")
    return tuple(_check(f"devices[{i}]", device) for i, device in enumerate(devices))


def _check(name: str, given: Any) -> torch.device:
    if not isinstance(given, str | torch.device):
        raise TypeError(f"{name}: expected 'cpu', 'cuda:0' or a torch.device, got {given!r}")
    try:
        device = torch.device(given)
    except RuntimeError:
        raise ValueError(f"{name}: expected 'cpu' or 'cuda:0', got {given!r}") from None
    if device.type == "cpu":
        if device.index not in (None, 0):
            raise ValueError(f"{name}: expected 'cpu', of which there is one, got {given!r}")
        return torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(f"{name}: expected 'cpu' or 'cuda:0', got {str(device)!r}")
    count = torch.cuda.device_count()
    index = device.index or 0
    if index >= count:
        seen = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
        why = "" if torch.version.cuda else f"; torch {torch.__version__} is built without CUDA"
        raise ValueError(
            f"{name}: expected a device of this machine, on which torch sees {seen}, got "
            f"{str(device)!r}{why}"
        )
    return torch.device("cuda", index)
