"""The torch face of the engine: what all optimizers have in common, and how they are shared."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any, overload

import torch
from torch.optim import optimizer as torch_optimizer
from torch.utils.hooks import RemovableHandle

from asyncopt import _core
from asyncopt.optim import copies
from asyncopt.optim.catch_up import CatchUp, checked_rows
from asyncopt.optim.checks import check_hyper, check_rows
from asyncopt.optim.gradients import reset
from asyncopt.optim.kernels import syncs
from asyncopt.optim.options import check_options
from asyncopt.optim.origin import Origin
from asyncopt.optim.parameters import (
    check_added,
    find_device,
    is_on_device,
    params_of,
    refuse_device,
    refuse_distributed,
)
from asyncopt.optim.sharing import Sharing
from asyncopt.optim.state_dicts import (
    check_loaded,
    cloned,
    loadable,
    packed,
    with_torchs_step,
    without_journal,
)
from asyncopt.optim.stepper import Stepper
from asyncopt.store import Ledger, Store

__all__ = ["Optimizer"]


class Optimizer(Origin):
    """Base class of asyncopt's optimizers.

    Each one derives from this class and from its namesake in ``torch.optim``, whose constructor
    checks the hyperparameters and whose ``isinstance`` tests it passes.

    Args:
        params: dense tensors of float32, float64 or bfloat16, or groups of them, on the CPU or all
            on one CUDA device. There ``sync`` is ``"hogwild"`` or ``"atomic"``, gradients are
            dense, a step can be captured in a graph, and ``lr`` may be a tensor on the device,
            which is read by the step itself. An optimizer there steps on one stream at a time:
            streams that step side by side have a :func:`asyncopt.optim.thread_clone` each.
        sync: how an update is written to memory that other workers write too; see
            :func:`asyncopt.syncs`. It has an effect once the optimizer is shared. Until then it can
            be changed: ``optimizer.sync = "mutex"``.
        audit: count every element update lost to a race (``sync="hogwild"`` only; slower).
        state_dtype: dtype of the optimizer's state; default: the parameter's. ``torch.bfloat16``
            halves the state of float32 parameters; it is rounded stochastically.
        flat_grads: keep all gradients as views of one buffer. ``zero_grad`` zeroes it, so a
            parameter that ``backward`` does not reach has a gradient of zeros rather than None.
            Parameters that do not require gradients have None and are skipped. Not for DTensor
            parameters.
        nonfinite: what a NaN or infinity in a gradient does: ``"propagate"`` into the parameters,
            as in torch, or ``"skip"`` the whole push, count it and warn once; every gradient is
            then read before anything is written. Default: ``"propagate"`` alone, ``"skip"`` shared.
        staleness_lr: ``"inverse"`` divides the learning rate of a push by 1 + its staleness
            (arXiv 1511.05950, 1911.03444). The largest stable rate falls as staleness rises.
        delay_compensation: corrects gradients for what others pushed since this worker pulled, as
            DC-ASGD (arXiv 1609.08326): the strength lambda, or (lambda_0, m) for the adaptive form.
            Like `staleness_lr`, it acts once the optimizer is shared: alone there is no delay.
        sparse_updates: what a sparse gradient does to rows that it does not name. ``"touched"``:
            nothing, as torch.optim.SparseAdam. ``"dense"``: what a gradient of zeros would do, as
            if it were dense; these updates are applied when a row is next named, or by
            :meth:`catch_up`. Not under a sync with replicas.
        **hyper: the namesake's hyperparameters.

    Attributes:
        stepper: pushes the gradients by the engine. It is for this package's other modules.
        after_push: called after each push of a shared optimizer, also if it was skipped for a
            gradient that is not finite; with False after a push of some rows, else with True.
        after_partial_push: called after a push in which some parameters had no gradient.

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range or a parameter cannot be updated in place.
    """

    _sync: str
    _step_supports_amp_scaling: bool  # read by torch.amp.GradScaler

    after_push: Callable[[bool], None] | None = None
    after_partial_push: Callable[[], None] | None = None

    def __init__(
        self,
        params: Any,
        *,
        sync: str = "hogwild",
        audit: bool = False,
        state_dtype: torch.dtype | None = None,
        flat_grads: bool = False,
        nonfinite: str | None = None,
        staleness_lr: str | None = None,
        delay_compensation: float | tuple[float, float] | None = None,
        sparse_updates: str = "touched",
        **hyper: Any,
    ) -> None:
        check_hyper(params, hyper)
        self.sync = sync
        self.audit = bool(audit)
        self.state_dtype = state_dtype
        self.nonfinite = nonfinite
        self.staleness_lr = staleness_lr
        self.delay_compensation = delay_compensation
        self.sparse_updates = sparse_updates
        check_options(self)
        self.rowwise = getattr(self, "rowwise", False)  # rules that know it have set it before
        self._flat_grads = flat_grads
        # Hashed, so that the second push under a user's seed 0 differs from the first one under 1.
        self.stepper = Stepper(self, seed=hash((torch.initial_seed(),)) & 0x3FFFFFFF)
        self._take_serial()
        super().__init__(params, **hyper)
        device = find_device(self, params_of(self))
        if self.defaults.get("capturable") and device is None:
            raise ValueError("capturable: expected False on cpu, got True; use torch.optim for it")
        if self.defaults.get("differentiable"):
            raise ValueError("differentiable: expected False, got True; use torch.optim for it")
        self._step_supports_amp_scaling = device is not None
        self.stepper.make_flat_gradients()

    def __repr__(self) -> str:
        """As torch's, with the sync and the store."""
        where = "not shared" if self.store is None else repr(self.store)
        name = type(self).__name__
        return super().__repr__().replace(f"{name} (", f"{name} (\nsync: {self.sync}, {where}", 1)

    @property
    def sync(self) -> str:
        """Name of the sync of updates to a store. It can be set while the optimizer has none."""
        return self._sync

    @sync.setter
    def sync(self, name: str) -> None:
        if name not in tuple(syncs()):
            raise ValueError(f"sync: expected one of {', '.join(syncs())}; got {name!r}")
        if hasattr(self, "stepper") and self.sharing is not None and name != self._sync:
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

    # --- Steps ---------------------------------------------------------------------------------

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
        stepper = self.stepper
        updated = stepper.step()
        if self.after_push is not None:
            self.after_push(True)
        if updated == _core.Plan.SKIPPED:
            stepper.count_skipped(stacklevel=4)
            return loss
        params = stepper.params
        if updated == len(params):
            if stepper.marks_changes:
                _mark_changed(params)
            return loss
        if updated > 0 and stepper.marks_changes:
            _mark_changed([p for p in params if p.grad is not None])
        if self.after_partial_push is not None:
            self.after_partial_push()
        return loss

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
        if self.stepper.link is not None:
            raise RuntimeError(
                "step_rows: expected parameters in place, got a worker with a device; give the "
                "parameter a sparse gradient and call step()"
            )
        remedy = "leave a dense gradient in .grad and call step"
        refuse_device(params_of(self), "step_rows", remedy)
        index = self._index_of(param)
        rows, values = check_rows(param, rows, values)
        if values.numel() == 0:
            return
        if self.before_push is not None:
            self.before_push()
        updated = self.stepper.step_rows(index, rows, values)
        if self.after_push is not None:
            self.after_push(False)
        if updated > 0:
            if self.stepper.marks_changes:
                _mark_changed([param])
        elif updated == _core.Plan.SKIPPED:
            self.stepper.count_skipped(stacklevel=3)

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
            _mark_changed(params_of(self) if param is None else [param])

    def replay(self, param: torch.Tensor | None, rows: torch.Tensor | None) -> bool:
        """:meth:`catch_up` without a new version of the parameter; False if no row can miss one."""
        index = None if param is None else self._index_of(param)
        if rows is not None:
            if param is None:
                raise ValueError("param: expected the parameter that has these rows, got None")
            rows = checked_rows(param, rows)
        if not self.stepper.is_lazy or (rows is not None and rows.numel() == 0):
            return False
        self.stepper.catch_up(index, rows)
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
        for index, each in enumerate(params_of(self)):
            if each is param:
                return index
        raise ValueError("param: expected one of this optimizer's parameters, got another one")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as in torch; with ``flat_grads`` they are zeroed and stay.

        Gradients that were replaced since the last call become views of the buffer again, and the
        buffer is made anew if it no longer fits the parameters.
        """
        flat = self.stepper.flat
        if flat is None:
            reset(params_of(self), set_to_none)
        else:
            self.stepper.zero_flat_gradients(flat)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group, as in torch; the parameters are checked first.

        Raises:
            ValueError: a parameter is not a dense tensor of a known dtype, on the CPU or a device
                that there are kernels for; it is not on the device of the others, or overlaps
                another; or the optimizer has an option that its device does not have.
            RuntimeError: the optimizer is shared already, and a store never grows.
        """
        if self.sharing is not None:
            raise RuntimeError(
                "add_param_group: expected an optimizer that is not shared; add all groups before "
                "share_memory or launch"
            )
        _unwrapped(super().add_param_group)(param_group)
        try:
            check_added(self)
        except ValueError:
            del self.param_groups[-1]
            raise
        self.stepper.forget()
        if self.stepper.flat is not None:
            self.stepper.make_flat_gradients()

    # --- Sharing -------------------------------------------------------------------------------

    @property
    def sharing(self) -> Sharing | None:
        """This worker's hold on the store; None without one."""
        return self.stepper.sharing

    @property
    def store(self) -> Store | None:
        """The store, once the optimizer is shared."""
        sharing = self.stepper.sharing
        return None if sharing is None else sharing.store

    @property
    def is_replica(self) -> bool:
        """True if this worker computes on a private copy of the parameters."""
        return self.stepper.is_replica

    def ledger(self) -> Ledger:
        """A snapshot of what all workers did; alone, of the pushes that were skipped."""
        if self.store is not None:
            return self.store.ledger(audited=self.audit)
        return Ledger.alone(self.stepper.skipped)

    @torch.no_grad()
    def share_memory(self, workers: int = 8, *, lock_timeout: float = 60.0) -> Optimizer:
        """Moves parameters and state into a new store, for `workers` workers besides this process.

        Under a sync that works in place the parameters become views of the store; under one with
        replicas they stay private, and :meth:`step` and :meth:`pull` refresh them. Afterwards the
        optimizer and its model can be arguments of spawned processes, which share the store.
        :func:`asyncopt.launch` calls this by itself.

        Args:
            workers: how many workers will join.
            lock_timeout: seconds after which waiting for a lock raises
                :class:`asyncopt.LockTimeout`.

        Returns:
            The optimizer itself.

        Raises:
            RuntimeError: the optimizer is shared already.
            SegmentError: the memory cannot be had.
            ValueError: `workers` or `lock_timeout` is out of range.
        """
        if self.sharing is not None:
            raise RuntimeError("share_memory: expected an optimizer that is not shared yet")
        params = params_of(self)
        remedy = (
            "a store lies in host memory: pass the model and the optimizer to "
            "torch.multiprocessing.spawn, which shares tensors of GPUs as they are, or move the "
            "model to the cpu"
        )
        refuse_device(params, "share_memory", remedy)
        if not hasattr(workers, "__index__") or not 1 <= workers < _core.MAX_WORKERS:
            raise ValueError(f"workers: expected 1 to {_core.MAX_WORKERS - 1}, got {workers!r}")
        refuse_distributed(params, "share_memory")
        check_options(self)  # they may have been changed since
        self.stepper.share(workers, lock_timeout)
        return self

    @torch.no_grad()
    def unshare(self) -> Optimizer:
        """Moves the newest version of parameters and state back into private memory.

        The store is freed with the last tensor in it. The model and the optimizer can then be
        changed as before they were shared: ``model.half()``, ``model.to(...)``,
        :meth:`add_param_group`, :meth:`load_state_dict`, another ``sync`` and, by
        :meth:`share_memory`, another number of workers. Without a store it does nothing.

        Returns:
            The optimizer itself.

        Raises:
            RuntimeError: this is a worker, or the store has another worker that still runs.
        """
        if self.sharing is not None:
            self.sharing.check_last("unshare")
            self.stepper.refresh()
            self.stepper.leave()
        return self

    @torch.no_grad()
    def share_again(self, workers: int) -> None:
        """Moves parameters, as they are here, and state to a new store that keeps the version.

        :func:`asyncopt.launch` calls it where the store does not fit the run.
        """
        assert self.sharing is not None
        self.sharing.check_last("workers")
        old = self.sharing.store
        self.stepper.leave()
        self.share_memory(workers, lock_timeout=old.lock_timeout)
        assert self.store is not None
        self.store.segment.restore_version(old.version)

    def fits_store(self) -> bool:
        """True if the store is laid out for the parameters as they are now."""
        return self.stepper.fits_store()

    def newest(self) -> list[torch.Tensor]:
        """Copies of the parameters in the store, of one version."""
        return self.stepper.newest()

    def pull(self) -> None:
        """Says that the next gradient is computed from what the store holds now.

        The staleness of the next push counts from here. A replica's parameters and state are
        refreshed from one version of the store (its :meth:`step` refreshes the parameters alone);
        elements that were written here since the last pull stay as they are, and reach the store
        with the next step. In place nothing is copied. Before the optimizer is shared, it does
        nothing.

        Raises:
            LockTimeout: a writer held the lock for too long. If the message says that the replica
                has parts of several versions, :meth:`step` is refused until a pull has succeeded.
        """
        self.stepper.pull()

    def flush(self) -> None:
        """Waits until the store has all that this worker pushed or wrote to its replica.

        Only workers with a device (``launch(devices=...)``) push in the background. There, call it
        after :meth:`step` before parameters are written, or read in any other way than by the
        forward pass of a module: for example to average, save or clamp them. With ``lag=1`` they
        then still lack the last push. Writes to a replica since its last pull become a version of
        the store; without this call they reach the store with the next :meth:`step`. In place, or
        before the optimizer is shared, it does nothing.

        Raises:
            DeviceError, LockTimeout: the push failed.
        """
        if self.stepper.link is not None:
            self.stepper.link.flush()
        self.stepper.publish()

    # --- State dicts ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state dict, as in torch; of a shared optimizer, a copy of the store's values.

        Of parameters on a device, ``step`` is a float32 copy, on the CPU unless a group is
        ``capturable`` or ``fused``. Under ``sparse_updates="dense"`` all rows are caught up with
        before.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        self.stepper.refresh()
        self.catch_up()
        saved = packed(self.param_groups, self.state)
        saved["state"] = self._saved_state(saved)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, saved)
            saved = saved if replaced is None else replaced
        return saved

    def _saved_state(self, saved: dict[str, Any]) -> dict[Any, Any]:
        """The state in a state dict in the form of torch's optimizers, which hooks receive."""
        state: dict[Any, Any] = saved["state"]
        if is_on_device(params_of(self)):
            state = with_torchs_step(saved)
        if self.stepper.is_lazy:
            state = {index: without_journal(each) for index, each in state.items()}
        if self.sharing is not None:
            state = {index: cloned(each) for index, each in state.items()}
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state dict, as in torch; also one of the namesake in ``torch.optim``.

        Raises:
            RuntimeError: the optimizer is shared under a sync with replicas, whose state belongs to
                the store.
            ValueError: it was saved from another class or of another model, or holds values that
                steps cannot continue from. Nothing was changed.
        """
        if self.sharing is not None and self.is_replica:
            raise RuntimeError(
                "load_state_dict: expected an optimizer that is not shared, as "
                f"sync={self.sync!r} keeps its state in the store; load before it is "
                "shared, or call unshare() first"
            )
        _unwrapped(super().load_state_dict)(state_dict)  # which calls __setstate__

    def _load(self, state: dict[str, Any]) -> None:
        """Loads the groups and the state of a state dict; an error changes nothing."""
        check_loaded(self, state["param_groups"], state["state"], self.sharing)
        given = loadable(self, state)
        before = self.param_groups, self.state
        try:  # torch completes what its older versions have saved
            super().__setstate__(given)
            completed = self.param_groups, self.state
        except Exception as error:
            raise ValueError(
                f"state_dict: expected one that torch.optim.{type(self).__name__} can load, got "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            self.param_groups, self.state = before
        self.catch_up()  # pending row updates belong to the state that is replaced
        self.param_groups, self.state = completed
        self.stepper.forget()
        if self.sharing is not None:
            self.stepper.make_plan()  # copies what was loaded into the store

    # --- Copies --------------------------------------------------------------------------------

    def _for_thread(self, memo: dict[int, Any]) -> Optimizer:
        """Another worker's copy in this process; see :func:`asyncopt.optim.thread_clone`.

        Args:
            memo: copies by the ids of their originals; gets the parameters.
        """
        copy: Optimizer = copies.for_thread(self, memo)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle is private; only a process that is being spawned shares.

        It gets the store, or the tensors of a GPU as torch shares them.
        """
        if get_spawning_popen() is not None:
            if self.sharing is not None:
                return copies.shared_state(self)
            if is_on_device(params_of(self)):
                return copies.device_state(self)
        return copies.private_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "stepper" not in state:  # by load_state_dict
            self._load(state)
            return
        given = dict(state)
        self.stepper = Stepper(self, **given.pop("stepper"))
        super().__setstate__(given)
        if self.sharing is None:
            self.stepper.make_flat_gradients()
        else:
            self.stepper.seed += self.sharing.worker * 0x1234567
            self.stepper.join()


def _unwrapped(method: Any) -> Any:
    """A bound method of torch's, out of the wrapper that keeps torch's compiler out of it.

    To do so the wrapper imports the compiler, which takes as long as all the rest of torch.
    """
    if "torch._dynamo" in sys.modules or not hasattr(method, "__wrapped__"):
        return method
    return functools.partial(method.__wrapped__, method.__self__)


def _mark_changed(params: list[torch.Tensor]) -> None:
    """Lets autograd refuse a backward pass through values that are no longer there."""
    torch._C._increment_version(params)
