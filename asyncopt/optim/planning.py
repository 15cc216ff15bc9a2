"""Planning: checks of parameters, and the engine's plan of a step."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from asyncopt import _core
from asyncopt.gpu import Device, check_options, device_of, refuse_capture
from asyncopt.optim.checks import check_device, check_kernel, check_overlap, check_param
from asyncopt.optim.flat import FlatGradients
from asyncopt.optim.kernels import Kernel, find_kernel, syncs
from asyncopt.optim.local import is_distributed, like, local_of
from asyncopt.optim.origin import Origin
from asyncopt.optim.sharing import Sharing
from asyncopt.optim.state import (
    adopt,
    check_number,
    check_place,
    check_state,
    new_state_tensors,
    reusable,
)
from asyncopt.store.moving import keep_addresses

__all__ = ["PlanningOptimizer", "unwrapped"]


def unwrapped(method: Any) -> Any:
    """A bound method of torch's, out of the wrapper that keeps torch's compiler out of it.

    To do so the wrapper imports the compiler, which takes as long as all the rest of torch.
    """
    if "torch._dynamo" in sys.modules or not hasattr(method, "__wrapped__"):
        return method
    return functools.partial(method.__wrapped__, method.__self__)


class PlanningOptimizer(Origin):
    """The part of :class:`asyncopt.optim.base.Optimizer` that prepares steps.

    Attributes:
        sync, audit, state_dtype, sparse_updates: see there.
        rowwise: whether its rule keeps one second moment for a whole row.
    """

    #: Whether the parameters are private copies under any sync, as a worker with a device has them.
    _is_apart = False

    _sync: str
    audit: bool
    state_dtype: torch.dtype | None
    sparse_updates: str
    rowwise: bool
    _flat_grads: bool
    _flat: FlatGradients | None
    _sharing: Sharing | None
    _skipped: int
    _step_supports_amp_scaling: bool

    @property
    def sync(self) -> str:
        """Name of the sync of updates to a store. It can be set while the optimizer has none."""
        return self._sync

    @sync.setter
    def sync(self, name: str) -> None:
        if name not in tuple(syncs()):
            raise ValueError(f"sync: expected one of {', '.join(syncs())}; got {name!r}")
        if getattr(self, "_sharing", None) is not None and name != self._sync:
            raise RuntimeError(
                f"sync: expected {self._sync!r}, as the optimizer's store was made for it, got "
                f"{name!r}; call unshare() first"
            )
        self._sync = name

    # --- What a rule defines -------------------------------------------------------------------

    def _rule(self, group: dict[str, Any]) -> str:
        """Name of the compiled rule for a parameter group."""
        raise NotImplementedError

    def _hyper(self, group: dict[str, Any]) -> tuple[Any, ...]:
        """The rule's hyperparameters from a parameter group, in the kernel's order."""
        raise NotImplementedError

    def _initial_slot(self, name: str, group: dict[str, Any]) -> float:
        """Initial value of a state tensor."""
        return 0.0

    def _initial_scalar(self, name: str, group: dict[str, Any], found: dict[str, Any]) -> float:
        """Initial value of a per-tensor number that the state `found` lacks."""
        return 0.0

    @property
    def is_replica(self) -> bool:
        """True if this worker computes on a private copy of the parameters."""
        return self._is_apart or self._has_private_state

    @property
    def _has_private_state(self) -> bool:
        """True if `state` is a private copy too: where the store's is not to be read in place."""
        return bool(syncs()[self.sync]["replica"])

    @property
    def _is_lazy(self) -> bool:
        """True if updates of rows that a gradient does not name are applied later."""
        return self.sparse_updates == "dense"

    # --- Parameters and state ------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch; the parameters are checked first.

        Raises:
            ValueError: a parameter is not a dense tensor of a known dtype, on the CPU or a device
                that there are kernels for; it is not on the device of the others, or overlaps
                another; or the optimizer has an option that its device does not have.
            RuntimeError: the optimizer is shared already, and a store never grows.
        """
        if self._sharing is not None:
            raise RuntimeError(
                "add_param_group: expected an optimizer that is not shared; add all groups before "
                "share_memory or launch"
            )
        unwrapped(super().add_param_group)(param_group)
        params = list(self._all_params())
        first = len(params) - len(self.param_groups[-1]["params"])
        try:
            for i, param in enumerate(params[first:], first):
                check_param(param, f"params[{i}]")
                kernel = self._kernel(param, self.param_groups[-1])
                check_kernel(param, kernel, f"params[{i}]")
            check_device(params)
            check_overlap(params)
            self._find_device(params)
            self._check_distributed(params)
        except ValueError:
            del self.param_groups[-1]
            raise
        self._forget_plan()
        if hasattr(self, "_step_supports_amp_scaling"):  # not in the constructor
            self._make_flat_gradients()

    def _find_device(self, params: Sequence[torch.Tensor]) -> Device | None:
        """The device that the parameters are on, if the engine needs one there."""
        device = device_of(params[0].device) if params else None
        if device is not None:
            check_options(
                params[0].device,
                sync=self.sync,
                audit=self.audit,
                rowwise=self.rowwise,
                sparse_updates=self.sparse_updates,
            )
        return device

    def _check_distributed(self, params: Sequence[torch.Tensor]) -> None:
        """Raises ValueError for an option that parameters in several processes cannot have."""
        options = {
            "flat_grads": (self._flat_grads, False),
            "rowwise": (self.rowwise, False),
            "sparse_updates": (self.sparse_updates, "touched"),
        }
        if any(map(is_distributed, params)):
            for name, (value, needed) in options.items():
                if value != needed:
                    raise ValueError(
                        f"{name}: expected {needed!r} for DTensor parameters, got {value!r}"
                    )

    def _check_plain(self, what: str) -> None:
        """Raises ValueError if parameters lie in several processes."""
        for i, param in enumerate(self._all_params()):
            if is_distributed(param):
                raise ValueError(
                    f"{what}: expected plain tensors, got a DTensor in params[{i}]; a model is "
                    "either divided by torch.distributed or shared by workers, so step it alone"
                )

    def _refuse_device(self, what: str, remedy: str) -> None:
        """Raises ValueError if the parameters are not in host memory."""
        if self._is_on_device:
            where = next(self._all_params()).device
            raise ValueError(f"{what}: expected parameters on cpu, got them on {where}; {remedy}")

    @property
    def _is_on_device(self) -> bool:
        param = next(self._all_params(), None)
        return param is not None and device_of(param.device) is not None

    def _check_params(self) -> None:
        """Raises ValueError for a parameter that is no longer what it was when it was shared."""
        check_device(self._params)
        for i, param in enumerate(self._params):
            check_param(param, f"params[{i}]")
        if self._sharing is None:
            return
        if (moved := self._first_moved(self._params)) is not None:
            param, spec = self._params[moved], self._sharing.layout.places[moved].spec
            raise ValueError(
                f"params[{moved}]: expected {spec.dtype}, shape {spec.shape}, in the store; got "
                f"{param.dtype}, shape {tuple(param.shape)}, in other memory (.data replaced?); "
                "write into it with .copy_(), or call the optimizer's unshare() before a change"
            )

    def _first_moved(self, params: Sequence[torch.Tensor]) -> int | None:
        """Index of the first parameter that is no longer what was shared."""
        assert self._sharing is not None
        for i, (param, place) in enumerate(zip(params, self._sharing.layout.places, strict=True)):
            spec = place.spec
            kept = (param.dtype, tuple(param.shape), param.stride()) == (
                spec.dtype,
                spec.shape,
                spec.strides,
            )
            there = self.is_replica or param.data_ptr() == self._sharing.param(place).data_ptr()
            if param.numel() and not (kept and there):
                return i
        return None

    def _fits_store(self) -> bool:
        """True if the parameters are still those that were shared."""
        return self._first_moved(list(self._all_params())) is None

    def _check_loaded(self, groups: list[dict[str, Any]], state: dict[Any, Any]) -> None:
        """Raises ValueError for groups and state that steps cannot continue from."""
        numbers = [k for k, v in self.defaults.items() if not isinstance(v, bool | None)]
        for g, group in enumerate(groups):
            if missing := [name for name in numbers if name not in group]:
                raise ValueError(
                    f"state_dict: expected one of {type(self).__name__}, got a group without "
                    f"{', '.join(missing)}; load it into an optimizer of the class that saved it"
                )
            try:
                hyper = self._hyper({**self.defaults, **group})
                unusable = len(hyper) != len(self._hyper(self.defaults)) or any(
                    math.isnan(number) for number in hyper
                )
            except (TypeError, ValueError, OverflowError, RuntimeError):
                unusable = True
            if unusable:
                raise ValueError(
                    f"state_dict: param_groups[{g}]: expected numbers, got "
                    + ", ".join(f"{name}={group[name]!r}" for name in numbers)
                )
        complete = [{**self.defaults, **group} for group in groups]
        for name, param, kernel in self._checked(complete, state):
            for scalar in kernel.scalars:
                check_number(f"state[{scalar!r}] of {name}", state.get(param, {}).get(scalar))

    def _checked(
        self, groups: list[dict[str, Any]], state: dict[Any, Any]
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
                kernel = self._kernel(param, group)
                check_kernel(param, kernel, name)
                check_state(name, state.get(param, {}), param, kernel)
                if self._sharing is not None:
                    check_place(name, kernel, self._sharing.layout.places[len(found)].spec)
                found.append((name, param, kernel))
        return found

    def _all_params(self) -> Iterator[torch.Tensor]:
        return (param for group in self.param_groups for param in group["params"])

    def _kernel(self, param: torch.Tensor, group: dict[str, Any]) -> Kernel:
        return find_kernel(self._rule(group), param.dtype, self.state_dtype or param.dtype)

    def _make_flat_gradients(self) -> None:
        self._flat = FlatGradients(self._all_params()) if self._flat_grads else None

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as in torch; with ``flat_grads`` they are zeroed and stay.

        Gradients that were replaced since the last call become views of the buffer again, and the
        buffer is made anew if it no longer fits the parameters.
        """
        # torch's own imports its compiler at the first call, which takes more than a second.
        if self._flat is not None:
            self._zero_flat(self._flat)
        elif set_to_none:
            for param in self._all_params():
                param.grad = None
        else:
            grads = [param.grad for param in self._all_params() if param.grad is not None]
            for grad in grads:
                if grad.grad_fn is not None:
                    grad.detach_()
                else:  # perhaps a view, which cannot be detached
                    grad.requires_grad_(False)
            dense = [grad for grad in grads if not grad.is_sparse]
            if dense:
                torch._foreach_zero_(dense)
            for grad in grads:
                if grad.is_sparse:
                    grad.zero_()

    def _zero_flat(self, flat: FlatGradients) -> None:
        plan = self._plan
        if plan is not None and plan.has_gradients(self.param_groups, flat.grads, flat.addresses):
            flat.zero()
        elif flat.fits(params := list(self._all_params())):
            flat.zero()
            flat.attach()
        else:
            for param in params:
                param.grad = None
            self._make_flat_gradients()

    # --- The plan: what the engine keeps between steps -----------------------------------------

    _plan: _core.Plan | None = None

    #: True if steps increment torch's version counters of parameters; False if the plan does.
    _marks_changes = True

    #: The tensors that the plan writes: its parameters or, of DTensors, their local tensors.
    _locals: list[torch.Tensor]

    def _forget_plan(self) -> None:
        if self._plan is not None:
            self._skipped += self._plan.skipped()
        self._plan = None
        self._params: list[torch.Tensor] = []
        self._locals = []
        self._rules: list[str] = []
        self._large = False

    def forget_addresses(self) -> None:
        """Look up the addresses of tensors again, without counting the change as a write.

        An unshared optimizer does so in its next step, a replica at once.
        """
        if self._sharing is None:
            self._forget_plan()
        elif self._plan is not None:
            with contextlib.suppress(ValueError):  # a converted parameter: the next step raises
                self._plan.follow_memory()

    @torch.no_grad()
    def _make_plan(self) -> _core.Plan:
        keep_addresses(self)
        sharing = self._sharing
        params = list(self._all_params())
        check_device(params)
        device = self._find_device(params)
        checked = self._checked(self.param_groups, self.state)  # before anything is written
        if device is not None:
            refuse_capture(params[0].device)
            plan = _core.Plan.on_device(
                device.backend, device.type, device.index, self.sync == "atomic"
            )
        elif sharing is None:
            plan = _core.Plan(None, 0, False, False)
        else:
            watched = self.is_replica and not self._is_apart
            plan = _core.Plan(sharing.store.segment, sharing.worker, self.is_replica, watched)
            self._marks_changes = not watched
        if self._flat_grads:
            plan.keep_gradients()
        state: dict[torch.Tensor, dict[str, Any]] = {}
        locals_ = []
        i = 0
        for group in self.param_groups:
            plan.add_group()
            for param in group["params"]:
                kernel = checked[i][2]
                found = self.state.get(param, {})
                local = local_of(param)
                place = sharing.layout.places[i] if sharing is not None else None
                if sharing is not None and place is not None and not self._has_private_state:
                    own = sharing.state(place)
                else:
                    how = (local, kernel, self._is_lazy)
                    own = reusable(found, *how) or new_state_tensors(*how)
                entries = adopt(
                    found,
                    own,
                    kernel,
                    lambda name, g=group: self._initial_slot(name, g),  # type: ignore[misc]
                    lambda name, g=group, f=found: self._initial_scalar(name, g, f),  # type: ignore[misc]
                    lambda slot, p=param: like(p, slot),  # type: ignore[misc]
                )
                if entries:
                    state[param] = entries
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
                locals_.append(local)
                i += 1
        # In the order of the parameters, in which a step compares it with the plan.
        others = {key: value for key, value in self.state.items() if key not in state}
        self.state.clear()
        self.state.update(state)
        self.state.update(others)
        self._params = params
        self._rules = [self._rule(group) for group in self.param_groups]
        self._locals = locals_
        self._large = sum(local.numel() for local in locals_) >= _core.PARALLEL_FROM
        # torch sets this for fused=True. GradScaler then leaves the unscaling to step().
        self._step_supports_amp_scaling = device is not None
        if self._plan is not None:
            self._skipped += self._plan.skipped()
            plan.continue_from(self._plan)
        self._plan = plan
        return plan
