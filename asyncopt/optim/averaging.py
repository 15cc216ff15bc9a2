"""Workers that train private replicas and meet now and then at a center in a store.

Communication is what several local steps of any torch optimizer have brought about, instead of
every gradient. The center is the parameters of an asyncopt optimizer of its own, so its updates
reach the store under any sync, without a barrier and safe when a worker dies.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from asyncopt.optim.base import Optimizer
from asyncopt.optim.optimizers import SGD
from asyncopt.optim.origin import allow_in_workers, check, copy_origin, watching
from asyncopt.optim.sharing import alias
from asyncopt.optim.wrapper import Wrapper, holds
from asyncopt.store import Ledger, Store

__all__ = ["Averaging", "ElasticAveraging", "LocalSteps"]


class Averaging(Wrapper):
    """A worker's own optimizer, and a center that it exchanges with.

    It is an argument of :func:`asyncopt.launch` like any optimizer of this package: in each worker
    the model becomes a private replica that starts from the center, and after the run the model in
    this process holds the center. A worker whose ``fn`` returns exchanges once more; a worker that
    fails or is killed loses the steps since its last exchange, and its replacement starts from the
    center. Until it is shared it behaves as `optimizer` alone. Parameter groups and state
    are those of `optimizer`, so that learning-rate schedulers take either.

    Args:
        optimizer: any torch optimizer, of this package only if it is not shared, with parameters
            of float32, float64 or bfloat16.
        every: local steps between two exchanges.
        center: makes the optimizer that updates the center from a list of its parameters.

    Attributes:
        optimizer, every: as given.
        center: the optimizer of the center; its parameters are the center.
        after_partial_push: not called, as exchanges are of all parameters.
    """

    after_partial_push: Callable[[], None] | None = None

    #: Attributes that a copy has from its original.
    _COPIED: tuple[str, ...] = ("optimizer", "every", "center", "_weight", "_steps")

    center: Optimizer
    _weight: float
    _steps: int

    def __init__(
        self,
        optimizer: Any,
        every: Any,
        center: Callable[[list[torch.Tensor]], Any],
    ) -> None:
        self._check(optimizer, every)
        params = [p for group in optimizer.param_groups for p in group["params"]]
        copies = [p.detach().to("cpu", copy=True) for p in params]
        made = center(copies)
        if not isinstance(made, Optimizer) or not holds(made, copies):
            raise TypeError(
                "outer: expected a function of a list of parameters that makes an asyncopt "
                f"optimizer of them all, got one that makes {made!r}"
            )
        self.__setstate__(
            {"optimizer": optimizer, "every": every, "center": made, "_weight": 1.0, "_steps": 0}
        )
        self._take_serial()

    # --- As a torch optimizer ------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The local optimizer's, and as ``"center"`` that of the center's optimizer."""
        return {**self.optimizer.state_dict(), "center": self.center.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes also the state dict of a local optimizer alone.

        Raises:
            RuntimeError: the optimizer is shared under a sync with replicas. Nothing was changed.
            ValueError: it was saved from another class or of another model. Nothing was changed.
        """
        local = {k: v for k, v in state_dict.items() if k != "center"}
        if "center" not in state_dict:
            self.optimizer.load_state_dict(local)
            return
        before = copy.deepcopy(self.optimizer.state_dict())
        self.optimizer.load_state_dict(local)
        try:
            self.center.load_state_dict(state_dict["center"])
        except Exception:
            self.optimizer.load_state_dict(before)
            raise

    # --- Sharing -------------------------------------------------------------------------------

    is_replica = True

    @property
    def store(self) -> Store | None:
        """The store that holds the center, once the optimizer is shared."""
        return self.center.store

    @property
    def sharing(self) -> Any:
        """Hold on the store of the center; None without a store."""
        return self.center.sharing

    @property
    def after_push(self) -> Callable[[bool], None] | None:
        """Called when the center's part of an exchange is over."""
        return self.center.after_push

    @after_push.setter
    def after_push(self, call: Callable[[bool], None] | None) -> None:
        self.center.after_push = call

    def ledger(self) -> Ledger:
        """The exchanges of all workers: each is one push to the center."""
        return self.center.ledger()

    @torch.no_grad()
    def share_memory(self, workers: int = 8, *, lock_timeout: float = 60.0) -> Averaging:
        """Moves the center, which is the parameters of now, into a new store.

        Args:
            workers: how many workers will join, besides this process.
            lock_timeout: seconds after which waiting for a lock raises
                :class:`asyncopt.LockTimeout`.

        Returns:
            The optimizer itself.

        Raises:
            RuntimeError: the optimizer is shared already.
            SegmentError: the memory cannot be had.
            ValueError: `workers` or `lock_timeout` is out of range, or a parameter has another
                dtype or shape than when it was wrapped.
        """
        if self.store is None:
            self._set_center()
        self.center.share_memory(workers, lock_timeout=lock_timeout)
        self._meet_center(workers)
        return self

    def unshare(self) -> Averaging:
        """Moves the center into private memory, takes it as the parameters and frees the store.

        Returns:
            The optimizer itself.

        Raises:
            RuntimeError: this is a worker, or another worker of the store is still alive.
        """
        self.center.unshare()
        self._take_center()
        return self

    @torch.no_grad()
    def share_again(self, workers: int) -> None:
        """Moves the parameters, as they are here, to a new store that keeps the version."""
        self._set_center()
        self.center.share_again(workers)
        self._meet_center(workers)

    def fits_store(self) -> bool:
        """True if the store's center is the one for the parameters as they are now."""
        return self._first_changed() is None

    def _set_center(self) -> None:
        if (i := self._first_changed()) is not None:
            param, center = self._params()[i], self._center()[i]
            raise ValueError(
                f"params[{i}]: expected {center.dtype}, shape {tuple(center.shape)}, as it was "
                f"wrapped; got {param.dtype}, shape {tuple(param.shape)}; convert the model first"
            )
        for param, center in zip(self._params(), self._center(), strict=True):
            center.copy_(param)

    def _first_changed(self) -> int | None:
        """The first parameter that has another dtype or shape than the center, by its index."""
        for i, (param, center) in enumerate(zip(self._params(), self._center(), strict=True)):
            if (param.dtype, param.shape) != (center.dtype, center.shape):
                return i
        return None

    def _meet_center(self, workers: int) -> None:
        self._weight = self._weight_of(workers)
        self._take_center()

    def pull(self) -> None:
        """Takes the center as the parameters.

        In a worker it does so only where that is part of the method: between two exchanges a
        replica is its worker's own.
        """
        if self.store is not None and (not self._in_worker or self._pulls_now()):
            self._take_center()

    def newest(self) -> list[torch.Tensor]:
        """The center as it is now, on the devices of the parameters."""
        self.center.pull()
        return [c.to(p.device) for p, c in zip(self._params(), self._center(), strict=True)]

    def catch_up(self) -> None:
        """Returns at once: the center has no lazily updated rows."""

    def flush(self) -> None:
        """Returns at once: an exchange is over when :meth:`step` returns."""

    @property
    def is_unfinished(self) -> bool:
        """True if this worker has taken steps since its last exchange."""
        raise NotImplementedError

    @torch.no_grad()
    def finish(self) -> None:
        """Adds the steps since the last exchange to the center; the parameters here do not change.

        :func:`asyncopt.launch` calls it in each worker when ``fn`` has returned. Workers that were
        started in another way call it after their last step.

        Raises:
            LockTimeout: a lock was not free in time; call it again.
        """
        if self.store is not None and self.is_unfinished:
            self._give()
            self._steps = 0

    def _give(self) -> Any:
        """Push this worker's part of an exchange to the center."""
        raise NotImplementedError

    def _await_push(self) -> None:
        if self.before_push is not None:
            self.before_push()

    def _push(self, gradients: Iterable[torch.Tensor]) -> None:
        for center, gradient in zip(self._center(), gradients, strict=True):
            center.grad = gradient
        self.center.step()

    def _check_origin(self) -> None:
        """Raises RuntimeError in a worker that may not step it."""
        if watching():
            check(self)

    @torch.no_grad()
    def _take_center(self) -> None:
        self.center.pull()
        for param, center in zip(self._params(), self._center(), strict=True):
            param.copy_(center)

    def _weight_of(self, workers: int) -> float:
        """The weight of one worker's exchange among those of `workers`."""
        raise NotImplementedError

    def _pulls_now(self) -> bool:
        """True if the method replaces a worker's replica by the center at this point."""
        raise NotImplementedError

    def _center(self) -> list[torch.Tensor]:
        return [p for group in self.center.param_groups for p in group["params"]]

    # --- Copies --------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle is private; only a process that is being spawned gets the store."""
        return {name: self.__dict__[name] for name in self._COPIED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._in_worker = self.store is not None
        if self._in_worker:
            self._join()

    @torch.no_grad()
    def _join(self) -> None:
        """Makes parameters and state, which came in shared memory, private; takes the center."""
        self._steps = 0
        if isinstance(self.optimizer, Optimizer):
            allow_in_workers(self.optimizer)
        for param in self._params():
            param.data = param.data.clone()
        for param, entries in list(self.state.items()):
            self.state[param] = copy.deepcopy(entries)
        self._take_center()

    def _for_thread(self, memo: dict[int, Any]) -> Averaging:
        """A worker thread's own; `memo` gets its parameters by the ids of these."""
        for param in self._params():
            memo.setdefault(id(param), alias(param))
        clone = type(self).__new__(type(self))
        clone.__setstate__(
            {
                **self.__getstate__(),
                "optimizer": copy.deepcopy(self.optimizer, memo),
                "center": self.center._for_thread(memo),
            }
        )
        copy_origin(self, clone)
        return clone


class ElasticAveraging(Averaging):
    """Replicas and a center that pull at each other: asynchronous EASGD.

    Before the step of every `every`-th gradient, a worker's parameters x and the center c move by
    alpha * (x - c) towards each other; when ``fn`` has returned, c moves once more. The
    gradient is the one computed at x before. With momentum in `optimizer` it is EAMSGD.

    Source: Zhang, Choromanska and LeCun, arXiv 1412.6651, algorithms 1 and 2.

    Args:
        optimizer: takes the local steps; any torch optimizer, of this package only if it is not
            shared.
        every: steps between two exchanges, the paper's tau.
        alpha: in (0, 1]. Default: 0.9 / workers, as in the paper.
        sync: how exchanges reach the center; see :func:`asyncopt.syncs`.

    Raises:
        TypeError, ValueError: an argument is wrong, or a parameter is none that a store can hold.
    """

    _COPIED = (*Averaging._COPIED, "alpha")

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 10,
        alpha: float | None = None,
        *,
        sync: str = "hogwild",
    ) -> None:
        if alpha is not None and not (hasattr(alpha, "__float__") and 0 < alpha <= 1):
            raise ValueError(f"alpha: expected a number in (0, 1] or None, got {alpha!r}")
        self.alpha = alpha
        # Its pushes add what they are given.
        super().__init__(optimizer, every, lambda c: SGD(c, lr=1.0, maximize=True, sync=sync))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a local step; exchange before every `every`-th one, beginning with the first."""
        self._check_origin()
        if self.store is not None and self._steps % self.every == 0:
            self._exchange()
        self._steps += 1
        return self.optimizer.step(closure)

    @property
    def is_unfinished(self) -> bool:
        """True if this worker has taken a step: exchanges precede steps, so the last one is new."""
        return self._steps > 0

    @torch.no_grad()
    def _exchange(self) -> None:
        for param, move in zip(self._params(), self._give(), strict=True):
            param.sub_(move.to(param.device))

    def _give(self) -> list[torch.Tensor]:
        self._await_push()
        self.center.pull()
        params, centers = self._params(), self._center()
        moves = [self._weight * (p.to("cpu") - c) for p, c in zip(params, centers, strict=True)]
        self._push(moves)
        return moves

    def _weight_of(self, workers: int) -> float:
        return 0.9 / workers if self.alpha is None else self.alpha

    def _pulls_now(self) -> bool:
        return False


class LocalSteps(Averaging):
    """Local steps with periodic averaging: local SGD, without waiting for each other.

    After every `every` steps, and when ``fn`` has returned, a worker adds 1 / workers of its
    progress since its last exchange to the center, and continues from the center. If all workers
    do so at the same time, the center is the mean of their parameters. To synchronize them, meet
    around a further pull after each exchange::

        optimizer.step()
        if (i + 1) % every == 0:
            worker.barrier()
            optimizer.pull()
            worker.barrier()

    An outer optimizer takes the progress, negated, as its gradient, as in DiLoCo. It steps once for
    each exchange of each worker, not once a round. Settings for one step per round of w workers,
    SGD with a learning rate lr and a momentum m, become SGD with the momentum m ** (1 / w) and the
    learning rate lr * (1 - m ** (1 / w)) / (1 - m). Under constant progress per round, the center
    then moves by the same lr / (1 - m) of it, and momentum decays over as many rounds. DiLoCo's
    settings, for w workers::

        m = 0.9 ** (1 / w)
        lr = 0.7 * (1 - m) / (1 - 0.9)  # 0.359, 0.182, 0.092 for 2, 4, 8 workers
        outer = functools.partial(asyncopt.SGD, lr=lr, momentum=m, nesterov=True)

    With lr and m unchanged, the center moves as far, but momentum decays in 1 / w as many rounds.
    The ledger's staleness counts exchanges; a run's ``max_staleness`` counts turns, that is steps.

    Sources: Stich, "Local SGD converges fast and communicates little", arXiv 1805.09767; Douillard
    et al., DiLoCo, arXiv 2311.08105; without waiting: Liu et al., arXiv 2401.09135.

    Args:
        optimizer: takes the local steps; any torch optimizer, of this package only if it is not
            shared.
        every: steps between two exchanges.
        outer: makes the optimizer of the center, called as ``outer(params, sync=sync)``: a class of
            this package or a ``functools.partial`` of one. Default: SGD with ``lr=1``, which is
            plain averaging.
        sync: how exchanges reach the center; see :func:`asyncopt.syncs`.

    Raises:
        TypeError, ValueError: an argument is wrong, or a parameter is none that a store can hold.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int,
        outer: Callable[..., Optimizer] | None = None,
        *,
        sync: str = "hogwild",
    ) -> None:
        make = functools.partial(SGD, lr=1.0) if outer is None else outer
        kind: Any = make.func if isinstance(make, functools.partial) else make
        is_torchs = isinstance(kind, type) and not issubclass(kind, Optimizer)
        if not callable(kind) or is_torchs:
            raise TypeError(
                "outer: expected a class of asyncopt's optimizers, as they step in a store, or a "
                f"functools.partial of one; got {outer!r}"
            )
        super().__init__(optimizer, every, lambda center: make(center, sync=sync))

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a local step; exchange after every `every`-th one."""
        self._check_origin()
        loss = self.optimizer.step(closure)
        self._steps += 1
        if self.store is not None and self._steps % self.every == 0:
            self._exchange()
        return loss

    @property
    def is_unfinished(self) -> bool:
        """True if this worker has taken steps since its last exchange."""
        return self._steps % self.every != 0

    @torch.no_grad()
    def _exchange(self) -> None:
        self._give()
        self._take_center()

    def _give(self) -> None:
        self._await_push()
        both = zip(self._start, self._params(), strict=True)
        self._push((start - param.to("cpu")) * self._weight for start, param in both)

    @torch.no_grad()
    def finish(self) -> None:
        """As :meth:`Averaging.finish`; later steps begin a new period."""
        super().finish()
        self._start = [param.to("cpu", copy=True) for param in self._params()]

    @torch.no_grad()
    def _take_center(self) -> None:
        self.center.pull()
        # In place the center may move while it is read: once, so that both are the same.
        self._start = [center.detach().clone() for center in self._center()]
        for param, start in zip(self._params(), self._start, strict=True):
            param.copy_(start)

    def _weight_of(self, workers: int) -> float:
        return 1 / workers

    def _pulls_now(self) -> bool:
        return self._steps % self.every == 0
