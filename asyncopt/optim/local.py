"""The part of a tensor that lies in the memory of this process.

``torch.distributed.fsdp.fully_shard`` and tensor parallelism make parameters, gradients and
optimizer state ``DTensor`` objects. These have no storage: each process holds a local tensor, and a
step updates that.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

import torch

__all__ = ["check_placement", "has_storage", "is_distributed", "like", "local_of"]


def is_distributed(value: Any) -> bool:
    """True if `value` is a DTensor."""
    # Importing the module takes long; without it there is none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, getattr(module, "DTensor", ()))


@torch.no_grad()
def local_of(value: Any) -> Any:
    """The local tensor of a DTensor, once it has arrived; anything else as it is."""
    if not is_distributed(value):
        return value
    local = value.to_local()
    # The result of an unfinished collective is a wrapper until wait() is called.
    return local.wait() if type(local).__name__ == "AsyncCollectiveTensor" else local


def like(param: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """A tensor of `param`'s kind over `local`: a DTensor of its shape and placements, or `local`.

    Args:
        param: a parameter.
        local: of the shape of the parameter's local tensor.
    """
    if not is_distributed(param):
        return local
    made: torch.Tensor = type(param).from_local(  # type: ignore[attr-defined]
        local,
        param.device_mesh,  # type: ignore[attr-defined]
        param.placements,  # type: ignore[attr-defined]
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )
    return made


def check_placement(name: str, value: Any, param: torch.Tensor) -> None:
    """Raises ValueError unless `value` has the placements and device mesh of `param`.

    Args:
        name: the name of `value` in the message.
        value: a gradient or a state tensor.
        param: its parameter.
    """
    got, expected = _placement(value), _placement(param)
    if got != expected:
        raise ValueError(
            f"{name}: expected {expected}, as its parameter, got {got}; call "
            ".redistribute(placements=param.placements), or distribute_tensor for a plain tensor"
        )


def _placement(tensor: Any) -> str:
    if not is_distributed(tensor):
        return "a plain tensor"
    return f"a DTensor with placements {tensor.placements} on {tensor.device_mesh}"


def has_storage(tensor: torch.Tensor) -> bool:
    """True if a tensor has memory, which wrappers, fake and symbolic tensors do not have."""
    if tensor.numel() == 0:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns for FakeTensor, and then returns 0
        try:
            return tensor.data_ptr() != 0
        except RuntimeError:
            return False
