"""State dicts: in the form of torch's optimizers, and checked before they are loaded."""

from __future__ import annotations

import inspect
import math
import types
from collections import defaultdict
from typing import Any

import torch

from asyncopt.optim.parameters import Steppable, checked, kernel_of
from asyncopt.optim.sharing import Sharing
from asyncopt.optim.state import JOURNAL, check_number

__all__ = [
    "check_loaded",
    "cloned",
    "loadable",
    "packed",
    "with_torchs_step",
    "without_journal",
]


def packed(groups: list[dict[str, Any]], state: dict[Any, Any]) -> dict[str, Any]:
    """A state dict of groups and state as torch makes it, without calling any hooks."""
    optimizer = types.SimpleNamespace(
        param_groups=groups,
        state=state,
        _optimizer_state_dict_pre_hooks={},
        _optimizer_state_dict_post_hooks={},
    )
    made: dict[str, Any] = inspect.unwrap(torch.optim.Optimizer.state_dict)(optimizer)
    return made


def with_torchs_step(state_dict: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """The state in a state dict, with ``step`` where torch's optimizers read it without waiting.

    They count in float32: on the parameter's device if the group is ``capturable`` or ``fused``,
    else on the CPU.
    """
    state = dict(state_dict["state"])
    for group in state_dict["param_groups"]:
        there = group.get("capturable") or group.get("fused")
        for index in group["params"]:
            entries = state.get(index)
            step = entries.get("step") if isinstance(entries, dict) else None
            if isinstance(step, torch.Tensor):
                device = step.device if there else "cpu"
                state[index] = {**state[index], "step": step.to(device, torch.float32)}
    return state


def without_journal(entries: Any) -> Any:
    """The entries that torch's optimizers also have; a value that is no dict, unchanged."""
    if not isinstance(entries, dict):
        return entries
    return {name: value for name, value in entries.items() if name != JOURNAL}


def cloned(entries: Any) -> Any:
    """The same entries with cloned tensors; a value that is no dict, unchanged."""
    if not isinstance(entries, dict):
        return entries
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in entries.items()}


def check_loaded(
    optimizer: Steppable,
    groups: list[dict[str, Any]],
    state: dict[Any, Any],
    sharing: Sharing | None,
) -> None:
    """Raises ValueError for groups and state that steps cannot continue from."""
    defaults = optimizer.defaults
    numbers = [k for k, v in defaults.items() if not isinstance(v, bool | None)]
    for g, group in enumerate(groups):
        if missing := [name for name in numbers if name not in group]:
            raise ValueError(
                f"state_dict: expected one of {type(optimizer).__name__}, got a group without "
                f"{', '.join(missing)}; load it into an optimizer of the class that saved it"
            )
        try:
            hyper = optimizer._hyper({**defaults, **group})
            unusable = len(hyper) != len(optimizer._hyper(defaults)) or any(
                math.isnan(number) for number in hyper
            )
        except (TypeError, ValueError, OverflowError, RuntimeError):
            unusable = True
        if unusable:
            raise ValueError(
                f"state_dict: param_groups[{g}]: expected numbers, got "
                + ", ".join(f"{name}={group[name]!r}" for name in numbers)
            )
    complete = [{**defaults, **group} for group in groups]
    for name, param, kernel in checked(optimizer, complete, state, sharing):
        for scalar in kernel.scalars:
            check_number(f"state[{scalar!r}] of {name}", state.get(param, {}).get(scalar))


def loadable(optimizer: Steppable, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict for ``__setstate__`` of torch: no journals, numbers as tensors on the CPU.

    A journal of pending row updates is valid only in its own optimizer. torch would make tensors of
    the numbers on the default device.
    """
    groups = [{**optimizer.defaults, **group} for group in state_dict["param_groups"]]
    kernels = {kernel_of(optimizer, param, g) for g in groups for param in g["params"]}
    numbers = {name for kernel in kernels for name in kernel.scalars}
    state = {
        key: {
            name: torch.tensor(float(value), dtype=torch.float64, device="cpu")
            if name in numbers and isinstance(value, int | float)
            else value
            for name, value in without_journal(entries).items()
        }
        if isinstance(entries, dict)
        else entries
        for key, entries in state_dict["state"].items()
    }
    return {**state_dict, "state": defaultdict(dict, state)}
