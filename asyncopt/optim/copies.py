"""Copies of optimizers: private ones, those of other workers, and those that push for a device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from asyncopt.optim.origin import copy_origin
from asyncopt.optim.parameters import params_of
from asyncopt.optim.sharing import Sharing, alias
from asyncopt.optim.state_dicts import cloned

__all__ = ["device_state", "for_thread", "on_host", "private_state", "shared_state"]

#: Attributes that a copy has from its original.
_OPTIONS = (
    *("_sync", "audit", "state_dtype", "nonfinite", "staleness_lr", "delay_compensation"),
    *("sparse_updates", "rowwise", "_flat_grads"),
)


def _state(optimizer: Any, **stepper: Any) -> dict[str, Any]:
    """Groups, state and options, and arguments of the copy's stepper."""
    known = {"seed": optimizer.stepper.seed, "skipped": optimizer.stepper.skipped}
    return {
        **torch.optim.Optimizer.__getstate__(optimizer),
        **{name: getattr(optimizer, name) for name in _OPTIONS},
        "_step_supports_amp_scaling": False,
        "stepper": {**known, **stepper},
    }


def private_state(optimizer: Any) -> dict[str, Any]:
    """State of a copy without a store, for its ``__setstate__``."""
    optimizer.stepper.refresh()
    state = _state(optimizer)
    if optimizer.sharing is not None:
        entries = {param: cloned(each) for param, each in optimizer.state.items()}
        state["state"] = defaultdict(dict, entries)
    return state


def shared_state(optimizer: Any, **stepper: Any) -> dict[str, Any]:
    """State of a copy that joins the store of a shared optimizer.

    Args:
        optimizer: shared.
        **stepper: arguments of the copy's :class:`asyncopt.optim.stepper.Stepper`.
    """
    optimizer.stepper.publish()
    state = _state(optimizer, **{"sharing": optimizer.sharing, **stepper})
    return {**state, "state": defaultdict(dict)}


def device_state(optimizer: Any) -> dict[str, Any]:
    """State of a copy that steps the same tensors on a GPU."""
    _ = optimizer.stepper.plan  # allocates the state, which they share
    return _state(optimizer, seed=optimizer.stepper.seed_of_copy())


def for_thread(optimizer: Any, memo: dict[int, Any]) -> Any:
    """Copy for another worker in this process; see :func:`asyncopt.optim.thread_clone`.

    Args:
        optimizer: shared, or of tensors on a GPU.
        memo: copies by the ids of their originals; gets the parameters.
    """
    params = params_of(optimizer)
    for param in params:
        memo.setdefault(id(param), alias(param))
    if (sharing := optimizer.sharing) is not None:
        state = shared_state(optimizer, sharing=Sharing(sharing.store, sharing.layout))
    else:
        state = device_state(optimizer)
        entries = {memo[id(param)]: dict(optimizer.state[param]) for param in params}
        state["state"] = defaultdict(dict, entries)
    return _of(optimizer, lambda param: memo[id(param)], state)


def on_host(optimizer: Any) -> Any:
    """Copy that pushes in place of a shared optimizer once the parameters are on a device.

    Its parameters are private copies of the store's, whatever the sync, and it has the hold of
    `optimizer` on the store.
    """
    state = shared_state(optimizer, is_detached=True)
    return _of(optimizer, torch.Tensor.detach, {**state, "_flat_grads": False})


def _of(
    optimizer: Any, other: Callable[[torch.Tensor], torch.Tensor], state: dict[str, Any]
) -> Any:
    """Another optimizer like this one, of other parameters, made from a state."""
    groups = [
        {**group, "params": [other(param) for param in group["params"]]}
        for group in optimizer.param_groups
    ]
    kind: Any = type(optimizer)
    clone = kind.__new__(kind)
    clone.__setstate__({**state, "param_groups": groups})
    copy_origin(optimizer, clone)
    return clone
