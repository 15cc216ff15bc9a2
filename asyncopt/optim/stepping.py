"""Stepping: from `.grad` to one push of the engine, with as little as possible in between."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import overload

import torch
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from asyncopt import _core
from asyncopt.optim.apart import How, Replica, slowed
from asyncopt.optim.catch_up import CatchUp, checked_rows
from asyncopt.optim.checks import check_gradient, check_rows
from asyncopt.optim.delay import Delay
from asyncopt.optim.local import local_of
from asyncopt.optim.planning import PlanningOptimizer

__all__ = ["SteppingOptimizer"]


class SteppingOptimizer(PlanningOptimizer):
    """Steps of :class:`asyncopt.optim.base.Optimizer`, alone or shared.

    Attributes:
        nonfinite: see there.
        after_push: called after each push of a shared optimizer, also if it was skipped for a
            gradient that is not finite; with False after a push of some rows, else with True.
        after_partial_push: called after a push in which some parameters had no gradient.
    """

    after_push: Callable[[bool], None] | None = None
    after_partial_push: Callable[[], None] | None = None

    #: In a worker with a device: its copy of the parameters there, through which it steps.
    _replica: Replica | None = None

    nonfinite: str | None
    _delay: Delay | None
    _seed: int

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(  # type: ignore[misc]  # hooks shall see how the closure was given
        self,
        evaluate: Callable[[], float] | None = None,
        /,
        *,
        closure: Callable[[], float] | None = None,
    ) -> float | None:
        """Applies the gradients: one push.

        Shared under a sync with replicas, it also pulls the newest whole version.

        Args:
            evaluate: the closure, if it is given by position.
            closure: evaluates the model again and returns the loss, as in torch.

        Returns:
            The closure's loss, or None.

        Raises:
            ValueError: a gradient has another dtype, device or shape than its parameter, or names
                rows that it does not have. Nothing was changed.
            LockTimeout: a lock was not free in time; call it again to finish the step.
            RuntimeError: the last :meth:`pull` left the replica torn; or a worker steps an
                optimizer that its run does not share and its function did not make. Nothing was
                changed.
        """
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or torch._C._autograd._profiler_enabled()
        ):
            by_position = () if evaluate is None else (evaluate,)
            by_name = {} if closure is None else {"closure": closure}
            return self._hooked_step(*by_position, **by_name)
        return self._step(closure if evaluate is None else evaluate)

    # torch would wrap `step` to run hooks and the profiler, which costs more than a small push.
    step.hooked = True  # type: ignore[attr-defined]

    def _step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.before_push is not None:
            self.before_push()
        if self._replica is not None:
            if self._flat is not None:
                self._flat.release_frozen()
            updated = self._replica.step()
        else:
            grads = None if self._delay is None else self._compensated_gradients(self._delay)
            updated = self._push(self._step_on, grads)
        if self.after_push is not None:
            self.after_push(True)
        if updated == _core.Plan.SKIPPED:
            self._count_skipped(stacklevel=4)
            return loss
        if updated == len(self._params):
            if self._marks_changes:
                self._mark_changed(self._params)
            return loss
        if updated > 0 and self._marks_changes:
            self._mark_changed([p for p in self._params if p.grad is not None])
        if self.after_partial_push is not None:
            self.after_partial_push()
        return loss

    def _step_on(self, plan: _core.Plan, how: How, grads: list[torch.Tensor | None] | None) -> int:
        """A push of all gradients by `plan`, with what GradScaler has left to it."""
        if not self._step_supports_amp_scaling:
            return plan.step(how, grads)
        device = self._params[0].device
        left = (getattr(self, name, None) for name in ("grad_scale", "found_inf"))
        # What is no tensor says nothing: found_inf is the sum of no numbers without gradients.
        numbers = (
            x.to(device, torch.float32) if isinstance(x, torch.Tensor) else None for x in left
        )
        updated = plan.step_scaled(how, grads, *numbers)
        for param, grad in zip(self._params, grads or (), strict=False):
            if param.grad is not None and grad is not None and grad is not param.grad:
                param.grad.copy_(grad)  # unscaled by the step, in another layout
        return updated

    _hooked_step = torch.optim.Optimizer.profile_hook_step(_step)

    def step_rows(self, param: torch.Tensor, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Push a gradient of some rows of one parameter.

        Untouched rows and their state are neither read nor written. The gradients of a row that is
        named more than once are added up first, in float32, or in float64 if they are float64.

        Args:
            param: one of the optimizer's parameters, contiguous, at least one dimension.
            rows: int64, shape (k,), indices into the parameter's first dimension.
            values: the parameter's dtype, shape (k, *param.shape[1:]), the rows' gradients.

        Raises:
            ValueError: an argument has another dtype, shape or device, or an index is out of range.
            LockTimeout: a lock was not free in time.
            RuntimeError: the worker has a device; or as from :meth:`step`.
        """
        if self._replica is not None:
            raise RuntimeError(
                "step_rows: expected parameters in place, got a worker with a device; give the "
                "parameter a sparse gradient and call step()"
            )
        self._refuse_device("step_rows", "leave a dense gradient in .grad and call step")
        index = self._index_of(param)
        rows, values = check_rows(param, rows, values)
        if values.numel() == 0:
            return
        if self.before_push is not None:
            self.before_push()
        if self._delay is not None and self._delay.compensates:
            grad = torch.sparse_coo_tensor(rows[None], values, param.shape, check_invariants=False)
            grad = self._delay.compensate_rows(index, grad, self._maximized()[index])
            rows, values = grad.indices()[0], grad.values()
        where = (index, rows.data_ptr(), len(rows), values.data_ptr())
        updated = self._push(lambda plan, how, _: plan.step_rows(how, *where))
        if self.after_push is not None:
            self.after_push(False)
        if updated > 0:
            if self._marks_changes:
                self._mark_changed([param])
        elif updated == _core.Plan.SKIPPED:
            self._count_skipped(stacklevel=3)

    def catch_up(self, param: torch.Tensor | None = None, rows: torch.Tensor | None = None) -> None:
        """Applies the updates that rows missed under ``sparse_updates="dense"``; else does nothing.

        Call it before rows are read or replaced that the last gradient did not name: in a forward
        pass, in evaluation, when the model is saved or loaded, after a run. :meth:`step` does so
        for the rows that its gradient names, :meth:`state_dict` and :meth:`load_state_dict` for
        all. Pushes of other workers meanwhile are missed again.

        Args:
            param: one of the optimizer's parameters; default: all of them.
            rows: integers of any shape, indices into its first dimension; default: all of them.

        Raises:
            ValueError: an argument has another dtype or device, or an index is out of range.
            LockTimeout: a lock was not free in time.
        """
        if self.replay(param, rows):
            self._mark_changed(self._params if param is None else [param])

    def replay(self, param: torch.Tensor | None, rows: torch.Tensor | None) -> bool:
        """:meth:`catch_up` without a new version of the parameter; False if no row can miss one."""
        index = None if param is None else self._index_of(param)
        if rows is not None:
            if param is None:
                raise ValueError("param: expected the parameter that has these rows, got None")
            rows = checked_rows(param, rows)
        if not self._is_lazy or (rows is not None and rows.numel() == 0):
            return False
        plan = self._plan or self._make_plan()  # a copy has none yet, and may have missed pushes
        where = (index, None if rows is None else (rows.data_ptr(), rows.numel()))
        if plan.catch_up(self._how(), *where) != 0:  # state or parameters are others now
            self._check_params()
            self._make_plan().catch_up(self._how(), *where)
        return True

    def catch_up_before(self, module: torch.nn.Module) -> RemovableHandle:
        """Catches up with the rows that an embedding looks up, before each of its forward passes.

        Args:
            module: an ``nn.Embedding`` or ``nn.EmbeddingBag`` whose weight this optimizer trains.

        Returns:
            A handle whose ``remove()`` ends that.

        Raises:
            TypeError: `module` is of another kind.
            ValueError: its weight is not one of the optimizer's parameters.
        """
        if not isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
            raise TypeError(
                f"module: expected nn.Embedding or nn.EmbeddingBag, got {type(module).__name__}; "
                "call catch_up(param, rows) before its forward pass"
            )
        self._index_of(module.weight)
        return module.register_forward_pre_hook(CatchUp(self), with_kwargs=True)

    def _index_of(self, param: torch.Tensor) -> int:
        for index, each in enumerate(self._all_params()):
            if each is param:
                return index
        raise ValueError("param: expected one of this optimizer's parameters, got another one")

    def _publish(self) -> None:
        """Writes changes of a replica since its last pull to the store, as one version."""
        if self._sharing is None:
            return
        if self._replica is not None:
            self._replica.publish()
        elif self.is_replica:
            is_new = (self._plan or self._make_plan()).publish()
            if is_new and self._delay is not None:
                self._delay.published()

    def _mark_changed(self, params: list[torch.Tensor]) -> None:
        """Lets autograd refuse a backward pass through values that are no longer there."""
        torch._C._increment_version(params)

    def _push(
        self, call: Callable[..., int], gradients: list[torch.Tensor | None] | None = None
    ) -> int:
        """Push by `call`, a method of the plan; returns the number of tensors updated.

        Args:
            call: takes the plan, how to push, and the gradients.
            gradients: in the order and layout of the parameters, if not those in ``.grad``.
        """
        plan = self._plan
        if plan is None or [self._rule(group) for group in self.param_groups] != self._rules:
            if plan is not None:
                self.catch_up()  # by the rule of before
            plan = self._make_plan()
        how = self._how(1.0 if self._delay is None else self._delay.step_scale())
        updated = call(plan, how, gradients)
        if updated == _core.Plan.STALE:
            plan = self._make_plan()
            updated = call(plan, how, gradients)
        if updated == _core.Plan.ODD_GRADIENT:
            self._check_params()
            gradients = gradients or self._checked_gradients()
            if self._locals_moved():
                plan = self._make_plan()
            updated = call(plan, how, gradients)
            if updated == _core.Plan.ODD_GRADIENT:  # a parameter has another shape now
                updated = call(self._make_plan(), how, gradients)
        if self._delay is not None and (self.is_replica or updated != _core.Plan.SKIPPED):
            self._delay.pulled()  # as the engine has it
        return updated

    def _locals_moved(self) -> bool:
        """True if DTensors have other local tensors than those that the plan writes."""
        return any(
            local is not param
            and ((now := local_of(param)).data_ptr(), now.dtype) != (local.data_ptr(), local.dtype)
            for param, local in zip(self._params, self._locals, strict=True)
        )

    def _how(self, scale: float = 1.0) -> How:
        """Arguments of the plan's push methods, with learning rates times `scale`."""
        self._seed = seed = (self._seed + 1) & 0x7FFFFFFF
        threads = torch.get_num_threads() if self._large else 1
        skip = self.nonfinite == "skip" or (self.nonfinite is None and self._sharing is not None)
        hyper = [self._hyper(group) for group in self.param_groups]
        how = self.param_groups, self.state, hyper, threads, seed, self.audit, skip
        return how if scale == 1 else slowed(how, scale)

    def _compensated_gradients(self, delay: Delay) -> list[torch.Tensor | None] | None:
        """All gradients, corrected for their delay; None if there is no correction."""
        if not delay.compensates:
            return None
        self._check_params()
        self._publish()  # else the correction takes own writes for updates of other workers
        gradients: list[torch.Tensor | None] = []
        both = zip(self._checked_gradients(), self._maximized(), strict=True)
        for i, (grad, maximize) in enumerate(both):
            if grad is None:
                gradients.append(None)
            elif grad.is_sparse:
                gradients.append(delay.compensate_rows(i, grad, maximize))
            else:
                gradients.append(delay.compensate(i, grad, maximize))
        return gradients

    def _maximized(self) -> list[bool]:
        """For each parameter, whether its group says ``maximize``."""
        return [group["maximize"] for group in self.param_groups for _ in group["params"]]

    @torch.no_grad()
    def _checked_gradients(self) -> list[torch.Tensor | None]:
        """All gradients in their parameters' memory order; raises for what has no such thing."""
        gradients: list[torch.Tensor | None] = []
        if self._flat is not None:
            self._flat.release_frozen()
        for i, param in enumerate(self._params):
            name = f"params[{i}]"
            if param.grad is None:
                gradients.append(None)
                continue
            if param.grad.is_sparse and self._is_on_device:
                raise ValueError(
                    f"{name}.grad: expected a dense gradient on {param.device}, got a sparse one; "
                    "make the embedding with sparse=False, or move the model to the cpu"
                )
            gradients.append(check_gradient(param, param.grad, name))
        return gradients

    def _count_skipped(self, stacklevel: int) -> None:
        if self._skipped == 0:
            warnings.warn(
                "step: a gradient is NaN or infinite; the push was skipped. Further ones are "
                "skipped silently and counted in ledger().skipped_nonfinite",
                RuntimeWarning,
                stacklevel=stacklevel,
            )
        self._skipped += 1
