"""The compiled kernels by name: which numbers and which state each rule needs."""

from __future__ import annotations

import dataclasses
import functools

import torch

from asyncopt import _core

__all__ = ["Kernel", "find_kernel", "hyper_names", "param_dtypes", "syncs"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A rule compiled for a pair of dtypes.

    Attributes:
        index: its place in the compiled list.
        rule: name of the compiled rule, such as ``"adam"``.
        hyper: names of its hyperparameters, in order.
        slots: names of the state tensors.
        row_slots: how many of the slots, the last ones, hold one value per row of the parameter;
            the others have its shape.
        scalars: names of the per-tensor numbers; the first is ``step``.
    """

    index: int
    rule: str
    param_dtype: torch.dtype
    state_dtype: torch.dtype
    hyper: tuple[str, ...]
    slots: tuple[str, ...]
    row_slots: int
    scalars: tuple[str, ...]


@functools.cache
def _kernels() -> dict[tuple[str, torch.dtype, torch.dtype], Kernel]:
    every = {}
    for index, raw in enumerate(_core.kernels()):
        param = getattr(torch, raw["param_dtype"])
        state = getattr(torch, raw["state_dtype"])
        every[raw["rule"], param, state] = Kernel(
            index,
            raw["rule"],
            param,
            state,
            raw["hyper"],
            raw["slots"],
            raw["row_slots"],
            raw["scalars"],
        )
    return every


def find_kernel(rule: str, param_dtype: torch.dtype, state_dtype: torch.dtype) -> Kernel:
    """The kernel of a rule.

    Raises:
        ValueError: the build has none for these dtypes.
    """
    try:
        return _kernels()[rule, param_dtype, state_dtype]
    except KeyError:
        possible = [str(s) for r, p, s in _kernels() if (r, p) == (rule, param_dtype)]
        raise ValueError(
            f"state_dtype: expected {' or '.join(possible)} for parameters of {param_dtype}, "
            f"got {state_dtype}"
        ) from None


@functools.cache
def hyper_names() -> frozenset[str]:
    """The hyperparameters of all rules together."""
    return frozenset(name for kernel in _kernels().values() for name in kernel.hyper)


@functools.cache
def param_dtypes() -> tuple[torch.dtype, ...]:
    """The dtypes that parameters may have."""
    return tuple(dict.fromkeys(param for _, param, _ in _kernels()))


@functools.cache
def syncs() -> dict[str, _core.Contract]:
    """Every sync of the build with its contract, in order of increasing guarantees."""
    return {raw["name"]: raw for raw in _core.syncs()}
