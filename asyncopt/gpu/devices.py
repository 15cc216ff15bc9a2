"""Devices that optimizers update tensors on."""

from __future__ import annotations

import dataclasses
import functools

import torch

from asyncopt import _core
from asyncopt._install import rebuild

__all__ = ["Device", "device_of", "refuse_capture", "unavailable"]

_CUDA = 2  # DLPack's number


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that the engine has kernels for.

    Attributes:
        backend: address of what the engine reaches it by; it stays until the process ends.
        type: DLPack's number of its kind.
        index: its number among those of its kind.
    """

    backend: int
    type: int
    index: int


@functools.cache
def unavailable() -> str | None:
    """Why this build cannot update tensors on CUDA devices, and what helps; None if it can."""
    try:
        from asyncopt import _cuda
    except ImportError as error:
        if error.name != "asyncopt._cuda" and "_cuda" not in str(error):
            raise
        return (
            "this build has no CUDA kernels: nvcc was not found when it was installed, or failed; "
            f"install the CUDA toolkit, 12.0 or newer, and run: {rebuild()}"
        )
    if _cuda.LAYOUT != _core.DEVICE_LAYOUT:
        return "asyncopt._cuda is of another build than asyncopt._core; reinstall asyncopt"
    return None


@functools.cache
def device_of(device: torch.device) -> Device | None:
    """The device behind a tensor's; None for the CPU, where the engine needs none.

    Raises:
        ValueError: the build has no kernels for it.
        DeviceError: it cannot be used: the driver is too old, or it is of an architecture that the
            kernels were not compiled for.
    """
    if device.type == "cpu":
        return None
    if device.type != "cuda":
        raise ValueError(f"device: expected cpu or cuda, got {device}")
    if (reason := unavailable()) is not None:
        raise ValueError(f"device: expected cpu, got {device}: {reason}")
    from asyncopt import _cuda

    return Device(_cuda.open(device.index), _CUDA, device.index)


def refuse_capture(device: torch.device) -> None:
    """Raises RuntimeError if torch's stream is captured: what is made then belongs to the graph."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            "step: expected state that a step before the capture of a graph has made, got none; "
            "take some steps on a side stream first, as torch's own optimizers need them"
        )
