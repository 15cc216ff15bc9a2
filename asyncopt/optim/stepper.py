"""The stepper of an optimizer: from `.grad` to one push of the engine, alone or in a store."""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch

from asyncopt import _core
from asyncopt.optim import planning
from asyncopt.optim.checks import check_gradient
from asyncopt.optim.delay import Delay
from asyncopt.optim.gradients import FlatGradients
from asyncopt.optim.kernels import syncs
from asyncopt.optim.local import local_of
from asyncopt.optim.parameters import (
    Steppable,
    check_unmoved,
    first_moved,
    is_on_device,
    kernel_of,
    params_of,
)
from asyncopt.optim.sharing import Sharing, layout_of
from asyncopt.optim.state import JOURNAL
from asyncopt.optim.state_dicts import cloned
from asyncopt.store import Store
from asyncopt.store.moving import keep_addresses

__all__ = ["DeviceLink", "How", "Stepper", "slowed"]

#: How to push: groups, state, hyperparameters, threads, seed, audit, whether to skip what is not
#: finite.
How = tuple[list[dict[str, Any]], Any, list[tuple[Any, ...]], int, int, bool, bool]


def slowed(how: How, scale: float) -> How:
    """The same with learning rates times `scale`."""
    if scale == 1:
        return how
    groups, state, hyper, *others = how
    return groups, state, [(lr * scale, *rest) for lr, *rest in hyper], *others


class DeviceLink(Protocol):
    """Link between an optimizer and its store for parameters on a device."""

    def step(self) -> int:
        """Pushes the parameters' gradients, perhaps in the background; returns their number."""

    def publish(self) -> None:
        """Writes changes of the parameters since they were pulled to the store."""

    def pull(self) -> None:
        """Refreshes parameters and state from the store."""

    def flush(self) -> None:
        """Waits for background transfers."""


class Stepper:
    """Pushes an optimizer's gradients by the engine, and pulls.

    It refers to its optimizer weakly: the two would be a cycle, and a store would outlive its
    optimizer until the next garbage collection.

    Args:
        optimizer: has this stepper as an attribute.
        seed: of the stochastic rounding, counted up by every push.
        skipped: pushes that were skipped for a gradient that is not finite.
        sharing: this worker's hold on a store; see :meth:`join`.
        is_detached: the parameters are private copies under any sync, as a worker with a device has
            them.

    Attributes:
        seed, sharing, is_detached: as given; `sharing` is None without a store.
        params: the parameters, in the order of the groups, as they were last planned.
        delay: corrections of gradients for their staleness; None without.
        flat: the buffers of flat gradients; None without.
        link: in a worker with a device, the replica through which it steps; else None.
        marks_changes: steps increment torch's version counters of parameters; else the plan does.
    """

    def __init__(
        self,
        optimizer: Steppable,
        *,
        seed: int,
        skipped: int = 0,
        sharing: Sharing | None = None,
        is_detached: bool = False,
    ) -> None:
        self._reference = weakref.ref(optimizer)
        self._skipped = skipped
        self._copies = 0
        self.seed = seed
        self.sharing = sharing
        self.is_detached = is_detached
        self.delay: Delay | None = None
        self.flat: FlatGradients | None = None
        self.link: DeviceLink | None = None
        self.marks_changes = True
        self._plan: _core.Plan | None = None
        self.forget()

    @property
    def _optimizer(self) -> Steppable:
        optimizer = self._reference()
        assert optimizer is not None, "the stepper of an optimizer that is gone"
        return optimizer

    @property
    def is_replica(self) -> bool:
        """True if this worker computes on a private copy of the parameters."""
        return self.is_detached or self.has_private_state

    @property
    def has_private_state(self) -> bool:
        """True if the state is a private copy too: the store's cannot be read in place."""
        return bool(syncs()[self._optimizer.sync]["replica"])

    @property
    def is_lazy(self) -> bool:
        """True if updates of rows that a gradient does not name are applied later."""
        return self._optimizer.sparse_updates == "dense"

    @property
    def skipped(self) -> int:
        """Pushes that were skipped for a gradient that is not finite, while there was no store."""
        return self._skipped + (0 if self._plan is None else self._plan.skipped())

    # --- The plan: what the engine keeps between steps -----------------------------------------

    def forget(self) -> None:
        """Drops the plan: the next push checks everything and makes another one."""
        self._skipped = self.skipped
        self._plan = None
        self.params: list[torch.Tensor] = []
        self._locals: list[torch.Tensor] = []  # that the plan writes: of DTensors, the local ones
        self._rules: list[str] = []
        self._is_large = False

    def forget_addresses(self) -> None:
        """Looks up the addresses of tensors again, without counting the change as a write.

        Without a store the next step does so, a replica at once.
        """
        if self.sharing is None:
            self.forget()
        elif self._plan is not None:
            with contextlib.suppress(ValueError):  # a converted parameter: the next step raises
                self._plan.follow_memory()

    @property
    def plan(self) -> _core.Plan:
        """The plan; made if there is none, which allocates and checks all state."""
        return self._plan or self.make_plan()

    def follow_rules(self) -> None:
        """Makes the plan anew if hyperparameters have chosen another rule since."""
        if [self._optimizer._rule(group) for group in self._optimizer.param_groups] != self._rules:
            self.make_plan()

    @torch.no_grad()
    def make_plan(self) -> _core.Plan:
        """Checks parameters and state, allocates what is missing, and makes the plan.

        Raises:
            ValueError: a parameter or its state cannot be updated. Nothing was changed.
        """
        keep_addresses(self)
        optimizer, sharing = self._optimizer, self.sharing
        planned = planning.make_plan(
            optimizer,
            sharing,
            is_replica=self.is_replica,
            is_watched=self.is_replica and not self.is_detached,
            has_private_state=self.has_private_state,
        )
        if sharing is not None:
            self.marks_changes = self.is_detached or not self.is_replica
        self.params, self._locals, self._rules, plan = planned
        self._is_large = sum(local.numel() for local in self._locals) >= _core.PARALLEL_FROM
        # torch sets this for fused=True. GradScaler then leaves the unscaling to step().
        optimizer._step_supports_amp_scaling = is_on_device(self.params)
        if self._plan is not None:
            self._skipped += self._plan.skipped()
            plan.continue_from(self._plan)
        self._plan = plan
        return plan

    # --- Pushes --------------------------------------------------------------------------------

    def step(self) -> int:
        """Pushes all gradients; returns the number of tensors updated, or ``Plan.SKIPPED``."""
        if self.link is not None:
            if self.flat is not None:
                self.flat.release_frozen()
            return self.link.step()
        grads = None if self.delay is None else self._compensated_gradients(self.delay)
        return self._push(self._optimizer, None, grads)

    def _step_of(self, optimizer: Steppable) -> Callable[..., int]:
        """The push of all gradients, as it is called for the plan of now."""
        return self._step_scaled if optimizer._step_supports_amp_scaling else _core.Plan.step

    def _step_scaled(
        self, plan: _core.Plan, how: How, grads: list[torch.Tensor | None] | None
    ) -> int:
        """A push of all gradients by `plan`, with what GradScaler has left to it."""
        optimizer = self._optimizer
        device = self.params[0].device
        left = (getattr(optimizer, name, None) for name in ("grad_scale", "found_inf"))
        # Without gradients, found_inf is the sum of no numbers, and no tensor.
        numbers = (
            x.to(device, torch.float32) if isinstance(x, torch.Tensor) else None for x in left
        )
        updated = plan.step_scaled(how, grads, *numbers)
        for param, grad in zip(self.params, grads or (), strict=False):
            if param.grad is not None and grad is not None and grad is not param.grad:
                param.grad.copy_(grad)  # unscaled by the step, in another layout
        return updated

    def step_rows(self, index: int, rows: torch.Tensor, values: torch.Tensor) -> int:
        """Pushes a gradient of some rows of one parameter; returns the same as :meth:`step`.

        Args:
            index: of the parameter.
            rows: int64, contiguous, shape (k,), in range.
            values: the parameter's dtype, contiguous, the rows' gradients.
        """
        if self.delay is not None and self.delay.compensates:
            param = params_of(self._optimizer)[index]
            grad = torch.sparse_coo_tensor(rows[None], values, param.shape, check_invariants=False)
            grad = self.delay.compensate_rows(index, grad, self.maximized()[index])
            rows, values = grad.indices()[0], grad.values()
        where = (index, rows.data_ptr(), len(rows), values.data_ptr())
        return self._push(self._optimizer, lambda plan, how, _: plan.step_rows(how, *where))

    def catch_up(self, index: int | None = None, rows: torch.Tensor | None = None) -> None:
        """Applies the updates that rows missed.

        Args:
            index: of a parameter; None: all of them.
            rows: int64, contiguous, in range; None: all of them.
        """
        where = (index, None if rows is None else (rows.data_ptr(), rows.numel()))
        plan = self.plan  # a copy has none yet, and may have missed pushes
        if plan.catch_up(self.how(), *where) != 0:  # state or parameters are others now
            self._check_params()
            self.make_plan().catch_up(self.how(), *where)

    def _push(
        self,
        optimizer: Steppable,
        call: Callable[..., int] | None,
        gradients: list[torch.Tensor | None] | None = None,
    ) -> int:
        """Pushes, and plans anew where something has changed; returns the same as :meth:`step`.

        Args:
            optimizer: that of this stepper.
            call: takes the plan, how to push, and the gradients; None: a step.
            gradients: in the order and layout of the parameters, if not those in ``.grad``.
        """
        plan = self._plan
        if plan is None:
            plan = self.make_plan()
        elif [optimizer._rule(group) for group in optimizer.param_groups] != self._rules:
            if self.is_lazy:
                self.catch_up()  # by the rule of before
                torch._C._increment_version(self.params)
            plan = self.make_plan()
        how = self._how(optimizer)
        if self.delay is not None:
            how = slowed(how, self.delay.step_scale())
        push = call or self._step_of(optimizer)
        updated = push(plan, how, gradients)
        if updated == _core.Plan.STALE:
            plan = self.make_plan()
            push = call or self._step_of(optimizer)
            updated = push(plan, how, gradients)
        if updated == _core.Plan.ODD_GRADIENT:
            self._check_params()
            gradients = gradients or self._checked_gradients()
            if self._locals_moved():
                plan = self.make_plan()
            updated = push(plan, how, gradients)
            if updated == _core.Plan.ODD_GRADIENT:  # a parameter has another shape now
                updated = push(self.make_plan(), how, gradients)
        if self.delay is not None and (self.is_replica or updated != _core.Plan.SKIPPED):
            self.delay.pulled()  # as the engine has it
        return updated

    def how(self) -> How:
        """Arguments of the plan's push methods; counts the seed up."""
        return self._how(self._optimizer)

    def _how(self, optimizer: Steppable) -> How:
        self.seed = seed = (self.seed + 1) & 0x7FFFFFFF
        threads = torch.get_num_threads() if self._is_large else 1
        nonfinite = optimizer.nonfinite
        skip = nonfinite == "skip" or (nonfinite is None and self.sharing is not None)
        groups = optimizer.param_groups
        hyper = [optimizer._hyper(group) for group in groups]
        return groups, optimizer.state, hyper, threads, seed, optimizer.audit, skip

    def maximized(self) -> list[bool]:
        """For each parameter, whether its group says ``maximize``."""
        groups = self._optimizer.param_groups
        return [group["maximize"] for group in groups for _ in group["params"]]

    def count_skipped(self, stacklevel: int) -> None:
        """Counts a push that was skipped; the first one is warned about."""
        if self._skipped == 0:
            warnings.warn(
                "step: a gradient is NaN or infinite; the push was skipped. Further ones are "
                "skipped silently and counted in ledger().skipped_nonfinite",
                RuntimeWarning,
                stacklevel=stacklevel,
            )
        self._skipped += 1

    def _check_params(self) -> None:
        check_unmoved(self.params, self.sharing, is_replica=self.is_replica)

    def _locals_moved(self) -> bool:
        """True if DTensors have other local tensors than those that the plan writes."""
        return any(
            local is not param
            and ((now := local_of(param)).data_ptr(), now.dtype) != (local.data_ptr(), local.dtype)
            for param, local in zip(self.params, self._locals, strict=True)
        )

    def _compensated_gradients(self, delay: Delay) -> list[torch.Tensor | None] | None:
        """All gradients, corrected for their delay; None if there is no correction."""
        if not delay.compensates:
            return None
        self._check_params()
        self.publish()  # else the correction takes own writes for updates of other workers
        gradients: list[torch.Tensor | None] = []
        both = zip(self._checked_gradients(), self.maximized(), strict=True)
        for i, (grad, maximize) in enumerate(both):
            if grad is None:
                gradients.append(None)
            elif grad.is_sparse:
                gradients.append(delay.compensate_rows(i, grad, maximize))
            else:
                gradients.append(delay.compensate(i, grad, maximize))
        return gradients

    @torch.no_grad()
    def _checked_gradients(self) -> list[torch.Tensor | None]:
        """All gradients in their parameters' memory order; raises for what has no such thing."""
        gradients: list[torch.Tensor | None] = []
        if self.flat is not None:
            self.flat.release_frozen()
        for i, param in enumerate(self.params):
            name = f"params[{i}]"
            if param.grad is None:
                gradients.append(None)
                continue
            if param.grad.is_sparse and is_on_device(self.params):
                raise ValueError(
                    f"{name}.grad: expected a dense gradient on {param.device}, got a sparse one; "
                    "make the embedding with sparse=False, or move the model to the cpu"
                )
            gradients.append(check_gradient(param, param.grad, name))
        return gradients

    # --- Flat gradients ------------------------------------------------------------------------

    def make_flat_gradients(self) -> None:
        """Makes the buffers of flat gradients for the parameters as they are now, if wanted."""
        optimizer = self._optimizer
        self.flat = FlatGradients(params_of(optimizer)) if optimizer._flat_grads else None

    def zero_flat_gradients(self, flat: FlatGradients) -> None:
        """Zeroes flat gradients, and makes every gradient a view of a fitting buffer again."""
        optimizer, plan = self._optimizer, self._plan
        groups = optimizer.param_groups
        if plan is not None and plan.has_gradients(groups, flat.grads, flat.addresses):
            flat.zero()
        elif flat.fits(params := params_of(optimizer)):
            flat.zero()
            flat.attach()
        else:
            for param in params:
                param.grad = None
            self.make_flat_gradients()

    # --- The store -----------------------------------------------------------------------------

    def share(self, workers: int, lock_timeout: float) -> None:
        """Moves parameters and state into a new store with slots for `workers` and this process."""
        optimizer = self._optimizer
        self.make_plan()  # allocates and checks all state
        kernels = [kernel_of(optimizer, p, g) for g in optimizer.param_groups for p in g["params"]]
        layout = layout_of(self.params, kernels, self.is_lazy)
        store = Store(layout, sync=optimizer.sync, workers=workers + 1, lock_timeout=lock_timeout)
        sharing = Sharing(store, layout)
        for param, place, kernel in zip(self.params, layout.places, kernels, strict=True):
            sharing.param(place).copy_(param)
            shared = sharing.state(place)
            for name, slot in zip(kernel.slots, shared.slots, strict=True):
                slot.copy_(optimizer.state[param][name])
            for k, name in enumerate(kernel.scalars):
                shared.scalars[k] = optimizer.state[param][name]
            if shared.journal is not None:
                shared.journal.copy_(optimizer.state[param][JOURNAL])
        self.sharing = sharing
        self.join()

    @torch.no_grad()
    def join(self) -> None:
        """Takes parameters and state from the store: as views of it, or as private copies."""
        optimizer, sharing = self._optimizer, self.sharing
        assert sharing is not None
        places = iter(sharing.layout.places)
        for group in optimizer.param_groups:
            for param in group["params"]:
                place = next(places)
                param.data = param.data.clone() if self.is_replica else sharing.param(place)
                entries = sharing.state(place).entries(kernel_of(optimizer, param, group))
                found = optimizer.state.pop(param, {})
                joined = {name: value for name, value in found.items() if name not in entries}
                if not self.has_private_state:
                    joined.update(entries)
                if joined:
                    optimizer.state[param] = joined
        self.make_plan()
        self.make_flat_gradients()
        self.refresh()
        if optimizer.staleness_lr is not None or optimizer.delay_compensation is not None:
            self.delay = Delay(
                sharing,
                self.params,
                self.is_replica,
                optimizer.staleness_lr,
                optimizer.delay_compensation,
            )

    @torch.no_grad()
    def leave(self) -> None:
        """Makes the parameters, as they are here, and the state private; releases the slot."""
        optimizer, sharing = self._optimizer, self.sharing
        assert sharing is not None
        for param, place in zip(params_of(optimizer), sharing.layout.places, strict=True):
            if param.data_ptr() == sharing.param(place).data_ptr():
                param.data = param.data.clone()
        for param, entries in optimizer.state.items():
            optimizer.state[param] = cloned(entries)
        sharing.release()
        self.sharing = None
        self.delay = None
        self.forget()
        self.make_flat_gradients()

    def fits_store(self) -> bool:
        """True if the parameters are still those that were shared."""
        assert self.sharing is not None
        params = params_of(self._optimizer)
        return first_moved(params, self.sharing, is_replica=self.is_replica) is None

    def newest(self) -> list[torch.Tensor]:
        """Copies of the parameters in the store, of one version."""
        copies = [torch.empty_like(param) for param in params_of(self._optimizer)]
        self.plan.pull_to(list(range(len(copies))), [each.data_ptr() for each in copies])
        return copies

    def pull(self) -> None:
        """Refreshes a replica from the store; the staleness of the next push counts from here."""
        if self.sharing is None:
            return
        if self.link is not None:
            self.link.pull()
            return
        if self.is_replica:
            self.plan.pull()
        else:
            self.sharing.store.segment.pull_mark(self.sharing.worker)
        if self.delay is not None:
            self.delay.pulled()

    def refresh(self) -> None:
        """Pulls if the parameters are a replica; in place there is nothing to pull."""
        if self.is_replica:
            self.pull()

    def publish(self) -> None:
        """Writes changes of a replica since its last pull to the store, as one version."""
        if self.sharing is None:
            return
        if self.link is not None:
            self.link.publish()
        elif self.is_replica:
            is_new = self.plan.publish()
            if is_new and self.delay is not None:
                self.delay.published()

    # --- Copies --------------------------------------------------------------------------------

    def seed_of_copy(self) -> int:
        """A seed for another worker's copy, which differs from those of all other copies."""
        self._copies += 1
        # A hash of integers is the same in every process; copies of copies get other ones, too.
        return hash((self.seed, self._copies)) & 0x3FFFFFFF

    def step_through(self, link: DeviceLink, host: Stepper) -> None:
        """Leaves the store to `host`: the parameters move to a device, and step by `link`.

        Args:
            link: pushes the gradients by `host`.
            host: steps the same parameters on the host, with this worker's hold on the store.
        """
        optimizer, other = self._optimizer, host._optimizer
        for mine, on_host in zip(params_of(optimizer), params_of(other), strict=True):
            mine.grad = None
            optimizer.state.pop(mine, None)
            if on_host in other.state:
                optimizer.state[mine] = other.state[on_host]
        self.forget()
        self.params = params_of(optimizer)
        self._is_large = host._is_large
        self.marks_changes = False
        self.delay = None
        self.is_detached = True
        self.link = link
        self.make_flat_gradients()
