"""The parameters of an optimizer as a whole: checks of them, of their groups and of their state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from asyncopt.gpu import Device, check_options, device_of
from asyncopt.optim.checks import check_device, check_kernel, check_overlap, check_param
from asyncopt.optim.kernels import Kernel, find_kernel
from asyncopt.optim.local import is_distributed
from asyncopt.optim.sharing import Sharing
from asyncopt.optim.state import check_place, check_state

__all__ = [
    "Steppable",
    "check_added",
    "check_distributed",
    "check_unmoved",
    "checked",
    "find_device",
    "first_moved",
    "is_on_device",
    "kernel_of",
    "params_of",
    "refuse_device",
    "refuse_distributed",
]


class Steppable(Protocol):
    """An optimizer as its stepper sees it: groups, state, options and a rule."""

    defaults: dict[str, Any]
    param_groups: list[dict[str, Any]]
    state: Any
    audit: bool
    state_dtype: torch.dtype | None
    _flat_grads: bool
    nonfinite: str | None
    staleness_lr: str | None
    delay_compensation: float | tuple[float, float] | None
    sparse_updates: str
    rowwise: bool
    _step_supports_amp_scaling: bool  # for GradScaler, which reads it by this name

    @property
    def sync(self) -> str:
        """Name of the sync."""

    def _rule(self, group: dict[str, Any]) -> str:
        """Name of the compiled rule for a parameter group."""

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """The rule's hyperparameters from a parameter group, in the kernel's order."""

    def _initial_slot(self, name: str, group: dict[str, Any]) -> float:
        """Initial value of a state tensor."""

    def _initial_scalar(self, name: str, group: dict[str, Any], found: dict[str, Any]) -> float:
        """Initial value of a per-tensor number that the state `found` lacks."""


def params_of(optimizer: Any) -> list[torch.Tensor]:
    """All parameters of an optimizer, in the order of its groups."""
    return [param for group in optimizer.param_groups for param in group["params"]]


def kernel_of(optimizer: Steppable, param: torch.Tensor, group: dict[str, Any]) -> Kernel:
    """The compiled kernel that updates a parameter.

    Raises:
        ValueError: the build has none for the dtypes.
    """
    return find_kernel(optimizer._rule(group), param.dtype, optimizer.state_dtype or param.dtype)


def find_device(optimizer: Steppable, params: Sequence[torch.Tensor]) -> Device | None:
    """The device of the parameters if it needs kernels of its own; None for host memory.

    Raises:
        ValueError: the optimizer has an option that the device does not have.
    """
    device = device_of(params[0].device) if params else None
    if device is not None:
        check_options(
            params[0].device,
            sync=optimizer.sync,
            audit=optimizer.audit,
            rowwise=optimizer.rowwise,
            sparse_updates=optimizer.sparse_updates,
        )
    return device


def is_on_device(params: Sequence[torch.Tensor]) -> bool:
    """True if the parameters are not in host memory."""
    return bool(params) and device_of(params[0].device) is not None


def refuse_device(params: Sequence[torch.Tensor], what: str, remedy: str) -> None:
    """Raises ValueError if the parameters are not in host memory."""
    if is_on_device(params):
        raise ValueError(
            f"{what}: expected parameters on cpu, got them on {params[0].device}; {remedy}"
        )


def refuse_distributed(params: Sequence[torch.Tensor], what: str) -> None:
    """Raises ValueError if parameters are divided between processes."""
    for i, param in enumerate(params):
        if is_distributed(param):
            raise ValueError(
                f"{what}: expected plain tensors, got a DTensor in params[{i}]; a model is "
                "either divided by torch.distributed or shared by workers, so step it alone"
            )


def check_distributed(optimizer: Steppable, params: Sequence[torch.Tensor]) -> None:
    """Raises ValueError for an option that parameters in several processes cannot have."""
    options = {
        "flat_grads": (optimizer._flat_grads, False),
        "rowwise": (optimizer.rowwise, False),
        "sparse_updates": (optimizer.sparse_updates, "touched"),
    }
    if any(map(is_distributed, params)):
        for name, (value, needed) in options.items():
            if value != needed:
                raise ValueError(
                    f"{name}: expected {needed!r} for DTensor parameters, got {value!r}"
                )


def check_added(optimizer: Steppable) -> None:
    """Raises ValueError if the last group's parameters cannot be updated beside the others."""
    params, group = params_of(optimizer), optimizer.param_groups[-1]
    first = len(params) - len(group["params"])
    for i, param in enumerate(params[first:], first):
        check_param(param, f"params[{i}]")
        check_kernel(param, kernel_of(optimizer, param, group), f"params[{i}]")
    check_device(params)
    check_overlap(params)
    find_device(optimizer, params)
    check_distributed(optimizer, params)


def first_moved(
    params: Sequence[torch.Tensor], sharing: Sharing, *, is_replica: bool
) -> int | None:
    """Index of the first parameter that is no longer what was shared; None if all are.

    Args:
        params: all parameters, in order.
        sharing: their hold on the store.
        is_replica: the parameters are copies of those in the store, in memory of their own.
    """
    for i, (param, place) in enumerate(zip(params, sharing.layout.places, strict=True)):
        spec = place.spec
        kept = (param.dtype, tuple(param.shape), param.stride()) == (
            spec.dtype,
            spec.shape,
            spec.strides,
        )
        there = is_replica or param.data_ptr() == sharing.param(place).data_ptr()
        if param.numel() and not (kept and there):
            return i
    return None


def check_unmoved(
    params: Sequence[torch.Tensor], sharing: Sharing | None, *, is_replica: bool
) -> None:
    """Raises ValueError for a parameter that is no longer what it was when it was shared."""
    check_device(params)
    for i, param in enumerate(params):
        check_param(param, f"params[{i}]")
    if sharing is None:
        return
    if (moved := first_moved(params, sharing, is_replica=is_replica)) is not None:
        param, spec = params[moved], sharing.layout.places[moved].spec
        raise ValueError(
            f"params[{moved}]: expected {spec.dtype}, shape {spec.shape}, in the store; got "
            f"{param.dtype}, shape {tuple(param.shape)}, in other memory (.data replaced?); "
            "write into it with .copy_(), or call the optimizer's unshare() before a change"
        )


def checked(
    optimizer: Steppable,
    groups: list[dict[str, Any]],
    state: dict[Any, Any],
    sharing: Sharing | None,
) -> list[tuple[str, torch.Tensor, Kernel]]:
    """Checks everything that a plan is made of; returns (name, parameter, kernel) of each.

    Raises:
        ValueError: a parameter or its state cannot be updated, or the store has no room for it.
    """
    found: list[tuple[str, torch.Tensor, Kernel]] = []
    for group in groups:
        for param in group["params"]:
            name = f"params[{len(found)}]"
            check_param(param, name)
            kernel = kernel_of(optimizer, param, group)
            check_kernel(param, kernel, name)
            check_state(name, state.get(param, {}), param, kernel)
            if sharing is not None:
                check_place(name, kernel, sharing.layout.places[len(found)].spec)
            found.append((name, param, kernel))
    return found
