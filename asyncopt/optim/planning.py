"""The engine's plan of a step: kernels and addresses of all parameters and their state."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from asyncopt import _core
from asyncopt.gpu import refuse_capture
from asyncopt.optim.checks import check_device
from asyncopt.optim.kernels import Kernel
from asyncopt.optim.local import like, local_of
from asyncopt.optim.parameters import Steppable, checked, find_device, params_of
from asyncopt.optim.sharing import Sharing
from asyncopt.optim.state import StateTensors, adopt, new_state_tensors, reusable
from asyncopt.store import Place

__all__ = ["Planned", "make_plan"]


class Planned(NamedTuple):
    """A plan, and what it was made of.

    Attributes:
        params: the parameters, in the order of the groups.
        locals: the tensors that the plan writes: the parameters or, of DTensors, the local ones.
        rules: name of the compiled rule of each group.
        plan: the engine's plan.
    """

    params: list[torch.Tensor]
    locals: list[torch.Tensor]
    rules: list[str]
    plan: _core.Plan


@torch.no_grad()
def make_plan(
    optimizer: Steppable,
    sharing: Sharing | None,
    *,
    is_replica: bool,
    is_watched: bool,
    has_private_state: bool,
) -> Planned:
    """Checks parameters and state, allocates missing state, and makes the engine's plan.

    Args:
        optimizer: its ``state`` becomes that which the engine writes.
        sharing: hold on a store, or None.
        is_replica: the parameters are copies of those in the store.
        is_watched: the plan compares a replica with what was pulled, and publishes writes.
        has_private_state: the state is a copy of the store's, too.

    Raises:
        ValueError: a parameter or its state cannot be updated. Nothing was changed.
    """
    params = params_of(optimizer)
    check_device(params)
    device = find_device(optimizer, params)
    checks = iter(checked(optimizer, optimizer.param_groups, optimizer.state, sharing))
    if device is not None:
        refuse_capture(params[0].device)
        is_atomic = optimizer.sync == "atomic"
        plan = _core.Plan.on_device(device.backend, device.type, device.index, is_atomic)
    elif sharing is None:
        plan = _core.Plan(None, 0, False, False)
    else:
        plan = _core.Plan(sharing.store.segment, sharing.worker, is_replica, is_watched)
    if optimizer._flat_grads:
        plan.keep_gradients()
    places = iter(() if sharing is None else sharing.layout.places)
    in_store = sharing if not has_private_state else None
    state: dict[torch.Tensor, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        plan.add_group()
        for param in group["params"]:
            _, _, kernel = next(checks)
            place = next(places, None)
            own = _own_state(optimizer, param, kernel, in_store, place)
            entries = _adopted(optimizer, group, param, own, kernel)
            if entries:
                state[param] = entries
            _add_tensor(plan, param, own, entries, kernel, place)
    # In the order of the parameters, in which a step compares it with the plan.
    others = {key: value for key, value in optimizer.state.items() if key not in state}
    optimizer.state.clear()
    optimizer.state.update(state)
    optimizer.state.update(others)
    rules = [optimizer._rule(group) for group in optimizer.param_groups]
    return Planned(params, [local_of(param) for param in params], rules, plan)


def _own_state(
    optimizer: Steppable,
    param: torch.Tensor,
    kernel: Kernel,
    sharing: Sharing | None,
    place: Place | None,
) -> StateTensors:
    """The state that the engine writes: in the store, as it is, or new."""
    if sharing is not None and place is not None:
        return sharing.state(place)
    how = (local_of(param), kernel, optimizer.sparse_updates == "dense")
    return reusable(optimizer.state.get(param, {}), *how) or new_state_tensors(*how)


def _adopted(
    optimizer: Steppable,
    group: dict[str, Any],
    param: torch.Tensor,
    own: StateTensors,
    kernel: Kernel,
) -> dict[str, Any]:
    """The entries of ``optimizer.state`` for a parameter, whose values are now in `own`."""
    found = optimizer.state.get(param, {})
    return adopt(
        found,
        own,
        kernel,
        lambda name: optimizer._initial_slot(name, group),
        lambda name: optimizer._initial_scalar(name, group, found),
        lambda slot: like(param, slot),
    )


def _add_tensor(
    plan: _core.Plan,
    param: torch.Tensor,
    own: StateTensors,
    entries: dict[str, Any],
    kernel: Kernel,
    place: Place | None,
) -> None:
    """Adds a parameter to the last group of a plan, with the addresses that the engine writes."""
    local = local_of(param)
    names = tuple(own.entries(kernel))
    journal = None
    if own.journal is not None:
        journal = place.journal if place else own.journal.data_ptr()
    plan.add_tensor(
        kernel.index,
        param,
        local,
        entries if names else None,
        names,
        tuple(entries[name] for name in names),
        place.param if place else local.data_ptr(),
        list(place.slots) if place else [slot.data_ptr() for slot in own.slots],
        place.scalars if place else own.scalars.data_ptr(),
        journal,
    )
