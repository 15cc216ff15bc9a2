"""The torch face of the engine: what all optimizers have in common, and how they are shared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from multiprocessing.context import get_spawning_popen
from typing import Any, TypedDict

import torch

from asyncopt import _core
from asyncopt.optim.apart import Replica
from asyncopt.optim.catch_up import check_sparse_updates
from asyncopt.optim.checks import check_hyper
from asyncopt.optim.delay import Delay, check_delay_options
from asyncopt.optim.planning import unwrapped
from asyncopt.optim.sharing import Sharing, alias, layout_of
from asyncopt.optim.state import JOURNAL, cloned, loaded, packed, with_torchs_step, without_journal
from asyncopt.optim.stepping import SteppingOptimizer
from asyncopt.store import Ledger, Store

__all__ = ["Optimizer", "Options"]


class Options(TypedDict, total=False):
    """Arguments of every optimizer besides `sync` and its namesake's."""

    audit: bool
    state_dtype: torch.dtype | None
    flat_grads: bool
    nonfinite: str | None
    staleness_lr: str | None
    delay_compensation: float | tuple[float, float] | None
    sparse_updates: str


class Optimizer(SteppingOptimizer):
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

    Raises:
        TypeError: an argument is of another kind.
        ValueError: an argument is out of range or a parameter cannot be updated in place.
    """

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
        self._check_options()
        self.rowwise = getattr(self, "rowwise", False)  # rules that know it have set it before
        self._flat_grads = flat_grads
        self._sharing: Sharing | None = None
        self._delay: Delay | None = None
        self._skipped = 0
        # Seed of the stochastic rounding, counted up by every push. Hashed, so that the second push
        # under a user's seed 0 differs from the first one under seed 1.
        self._seed = hash((torch.initial_seed(),)) & 0x3FFFFFFF
        self._copies = 0
        self._take_serial()
        self._forget_plan()
        super().__init__(params, **hyper)
        device = self._find_device(list(self._all_params()))
        if self.defaults.get("capturable") and device is None:
            raise ValueError("capturable: expected False on cpu, got True; use torch.optim for it")
        if self.defaults.get("differentiable"):
            raise ValueError("differentiable: expected False, got True; use torch.optim for it")
        self._step_supports_amp_scaling = device is not None
        self._make_flat_gradients()

    def _check_options(self) -> None:
        """Raises ValueError for an unknown option, or for options that exclude each other."""
        if self.audit and self.sync != "hogwild":
            raise ValueError(
                f"audit: expected sync='hogwild' (no other loses updates), got {self.sync!r}"
            )
        if self.nonfinite not in (None, "propagate", "skip"):
            raise ValueError(
                f"nonfinite: expected 'propagate', 'skip' or None, got {self.nonfinite!r}"
            )
        check_delay_options(self.staleness_lr, self.delay_compensation, self.sync)
        check_sparse_updates(self.sparse_updates, self.sync, self.delay_compensation)

    # --- Sharing -------------------------------------------------------------------------------

    @property
    def store(self) -> Store | None:
        """The store, once the optimizer is shared."""
        return self._sharing.store if self._sharing is not None else None

    def ledger(self) -> Ledger:
        """A snapshot of what all workers did; alone, of the pushes that were skipped."""
        if self._sharing is not None:
            return self._sharing.store.ledger(audited=self.audit)
        on_device = 0 if self._plan is None else self._plan.skipped()
        return Ledger.alone(self._skipped + on_device)

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
        if self._sharing is not None:
            raise RuntimeError("share_memory: expected an optimizer that is not shared yet")
        self._refuse_device(
            "share_memory",
            "a store lies in host memory: pass the model and the optimizer to "
            "torch.multiprocessing.spawn, which shares tensors of GPUs as they are, or move the "
            "model to the cpu",
        )
        if not hasattr(workers, "__index__") or not 1 <= workers < _core.MAX_WORKERS:
            raise ValueError(f"workers: expected 1 to {_core.MAX_WORKERS - 1}, got {workers!r}")
        self._check_plain("share_memory")
        self._check_options()  # they may have been changed since
        self._make_plan()  # allocates and checks all state
        kernels = [self._kernel(p, group) for group in self.param_groups for p in group["params"]]
        layout = layout_of(self._params, kernels, self._is_lazy)
        store = Store(layout, sync=self.sync, workers=workers + 1, lock_timeout=lock_timeout)
        sharing = Sharing(store, layout)
        for param, place, kernel in zip(self._params, layout.places, kernels, strict=True):
            sharing.param(place).copy_(param)
            shared = sharing.state(place)
            for name, slot in zip(kernel.slots, shared.slots, strict=True):
                slot.copy_(self.state[param][name])
            for k, name in enumerate(kernel.scalars):
                shared.scalars[k] = self.state[param][name]
            if shared.journal is not None:
                shared.journal.copy_(self.state[param][JOURNAL])
        self._sharing = sharing
        self._join_store()
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
        if self._sharing is not None:
            self._sharing.check_last("unshare")
            self._refresh()
            self._leave_store()
        return self

    @torch.no_grad()
    def _leave_store(self) -> None:
        """Makes the parameters, as they are here, and the state private; releases the slot."""
        sharing = self._sharing
        assert sharing is not None
        for param, place in zip(self._all_params(), sharing.layout.places, strict=True):
            if param.data_ptr() == sharing.param(place).data_ptr():
                param.data = param.data.clone()
        for param, entries in self.state.items():
            self.state[param] = cloned(entries)
        sharing.release()
        self._sharing = None
        self._delay = None
        self._forget_plan()
        self._make_flat_gradients()

    @torch.no_grad()
    def _share_again(self, workers: int) -> None:
        """Moves parameters, as they are here, and state to a new store that keeps the version."""
        assert self._sharing is not None
        self._sharing.check_last("workers")
        old = self._sharing.store
        self._leave_store()
        self.share_memory(workers, lock_timeout=old.lock_timeout)
        assert self.store is not None
        self.store.segment.restore_version(old.version)

    @torch.no_grad()
    def _join_store(self) -> None:
        """Takes parameters and state from the store: as views of it, or as private copies."""
        sharing = self._sharing
        assert sharing is not None
        places = iter(sharing.layout.places)
        for group in self.param_groups:
            for param in group["params"]:
                place = next(places)
                param.data = param.data.clone() if self.is_replica else sharing.param(place)
                entries = sharing.state(place).entries(self._kernel(param, group))
                found = self.state.pop(param, {})
                joined = {name: value for name, value in found.items() if name not in entries}
                if not self._has_private_state:
                    joined.update(entries)
                if joined:
                    self.state[param] = joined
        self._make_plan()
        self._make_flat_gradients()
        self._refresh()
        if self.staleness_lr is not None or self.delay_compensation is not None:
            self._delay = Delay(
                sharing,
                self._params,
                self.is_replica,
                self.staleness_lr,
                self.delay_compensation,
            )

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
        if self._sharing is None:
            return
        if self._replica is not None:
            self._replica.pull()
            return
        if self.is_replica:
            (self._plan or self._make_plan()).pull()
        else:
            self._sharing.store.segment.pull_mark(self._sharing.worker)
        if self._delay is not None:
            self._delay.pulled()

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
        if self._replica is not None:
            self._replica.flush()
        self._publish()

    def _newest(self) -> list[torch.Tensor]:
        """Copies of the parameters in the store, of one version."""
        copies = [torch.empty_like(param) for param in self._all_params()]
        plan = self._plan or self._make_plan()
        plan.pull_to(list(range(len(copies))), [each.data_ptr() for each in copies])
        return copies

    def _refresh(self) -> None:
        """Brings a replica up to date; in place there is nothing to bring."""
        if self.is_replica:
            self.pull()

    def state_dict(self) -> dict[str, Any]:
        """The state dict, as in torch; of a shared optimizer, a copy of the store's values.

        Of parameters on a device, ``step`` is a float32 copy, on the CPU unless a group is
        ``capturable`` or ``fused``. Under ``sparse_updates="dense"`` all rows are caught up with
        before.
        """
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        self._refresh()
        self.catch_up()
        saved = packed(self.param_groups, self.state)
        saved["state"] = self._saved_state(saved)
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            replaced = post_hook(self, saved)
            saved = saved if replaced is None else replaced
        return saved

    def _saved_state(self, saved: dict[str, Any]) -> dict[Any, Any]:
        """The state in a state dict in the form of torch's optimizers, which hooks receive."""
        state: dict[Any, Any] = with_torchs_step(saved) if self._is_on_device else saved["state"]
        if self._is_lazy:
            state = {index: without_journal(each) for index, each in state.items()}
        if self._sharing is not None:
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
        if self._sharing is not None and self.is_replica:
            raise RuntimeError(
                "load_state_dict: expected an optimizer that is not shared, as "
                f"sync={self.sync!r} keeps its state in the store; load before it is "
                "shared, or call unshare() first"
            )
        unwrapped(super().load_state_dict)(state_dict)  # which calls __setstate__

    def _load(self, state: dict[str, Any]) -> None:
        """Loads the groups and the state of a state dict; an error changes nothing."""
        groups = state["param_groups"]
        self._check_loaded(groups, state["state"])
        kernels = {self._kernel(p, {**self.defaults, **g}) for g in groups for p in g["params"]}
        before = self.param_groups, self.state
        try:  # torch completes what its older versions have saved
            super().__setstate__(
                {**state, "state": defaultdict(dict, loaded(state["state"], kernels))}
            )
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
        self._forget_plan()
        if self._sharing is not None:
            self._make_plan()  # copies what was loaded into the store

    def _shared_state(self) -> dict[str, Any]:
        """Data from which another worker builds its copy of a shared optimizer."""
        self._publish()
        return {**self._options_state(), "state": defaultdict(dict), "_sharing": self._sharing}

    def _for_thread(self, memo: dict[int, Any]) -> Optimizer:
        """Another worker's copy in this process; see :func:`asyncopt.optim.thread_clone`.

        Args:
            memo: copies by the ids of their originals; gets the parameters.
        """
        for param in self._all_params():
            memo.setdefault(id(param), alias(param))
        if self._sharing is not None:
            sharing = Sharing(self._sharing.store, self._sharing.layout)
            state = {**self._shared_state(), "_sharing": sharing}
        else:
            state = self._state_on_device()
            state["state"] = defaultdict(
                dict, {memo[id(p)]: dict(self.state[p]) for p in self._all_params()}
            )
        return self._of(lambda param: memo[id(param)], state)

    def _on_host(self) -> Optimizer:
        """Optimizer that pushes in place of this one once the parameters are on a device.

        Its parameters are private copies of the store's, whatever the sync, and it has this one's
        hold on the store.
        """
        apart = {"_is_apart": True, "_flat_grads": False}
        return self._of(torch.Tensor.detach, {**self._shared_state(), **apart})

    def _step_through(self, replica: Replica, host: Optimizer) -> None:
        """Leaves the store to `host`: the parameters are a replica's, elsewhere by now."""
        for mine, on_host in zip(self._all_params(), host._all_params(), strict=True):
            mine.grad = None
            self.state.pop(mine, None)
            if on_host in host.state:
                self.state[mine] = host.state[on_host]
        self._forget_plan()
        self._params = list(self._all_params())
        self._large = host._large
        self._marks_changes = False
        self._delay = None
        self._is_apart = True
        self._replica = replica
        self._make_flat_gradients()

    def _of(
        self, other: Callable[[torch.Tensor], torch.Tensor], state: dict[str, Any]
    ) -> Optimizer:
        """Another optimizer like this one, of other parameters, made from a state."""
        groups = [
            {**group, "params": [other(param) for param in group["params"]]}
            for group in self.param_groups
        ]
        clone = type(self).__new__(type(self))
        clone.__setstate__({**state, "param_groups": groups})
        clone._serial = self._serial
        return clone

    def _state_on_device(self) -> dict[str, Any]:
        """Data from which another worker builds an optimizer of the same GPU tensors."""
        if self._plan is None:
            self._make_plan()  # allocates the state, which they share
        self._copies += 1
        # A hash of integers is the same everywhere; copies of copies get others, too.
        return {**self._options_state(), "_seed": hash((self._seed, self._copies)) & 0x3FFFFFFF}

    def _private_state(self) -> dict[str, Any]:
        """Data from which an unshared copy is built."""
        self._refresh()
        state = self._options_state()
        if self._sharing is not None:
            state["state"] = defaultdict(
                dict, {param: cloned(each) for param, each in self.state.items()}
            )
        return state

    def _options_state(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            **{name: getattr(self, name) for name in _COPIED},
            "_sharing": None,
            "_delay": None,
            "_copies": 0,
            "_step_supports_amp_scaling": False,
        }

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle is private; only a process that is being spawned shares.

        It gets the store, or the tensors of a GPU as torch shares them.
        """
        if get_spawning_popen() is not None:
            if self._sharing is not None:
                return self._shared_state()
            if self._is_on_device:
                return self._state_on_device()
        return self._private_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "_sharing" not in state:  # by load_state_dict
            self._load(state)
            return
        super().__setstate__(state)
        self._forget_plan()
        if self._sharing is None:
            self._make_flat_gradients()
        else:
            self._seed += self._sharing.worker * 0x1234567
            self._join_store()


#: Attributes that a copy has from its original.
_COPIED = (
    *("_sync", "audit", "state_dtype", "nonfinite", "staleness_lr", "delay_compensation"),
    *("sparse_updates", "rowwise", "_flat_grads", "_seed", "_skipped"),
)
