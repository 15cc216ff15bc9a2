"""Local steps and elastic averaging between the ranks of a process group."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import torch

from asyncopt.distributed.mean import Flat, Mean
from asyncopt.distributed.ranks import Ranks
from asyncopt.optim.wrapper import Wrapper, holds

__all__ = ["ElasticAveraging", "LocalSteps", "PeerAveraging"]

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class PeerAveraging(Wrapper):
    """A rank's own optimizer, and what it exchanges with the other ranks every so many steps.

    An exchange begins with a snapshot, whose mean over all ranks is worked out while `overlap`
    further local steps are taken; what follows from it is then added to the parameters, wherever
    those steps have brought them. At which step that happens is fixed, so that a run can be
    repeated: it does not depend on when the mean arrived. If it has not by then, ``step`` waits on
    the CPU, and on a GPU the stream does.

    All ranks make the optimizer together, with the same arguments and the same shapes, and start
    with the first rank's parameters and buffers; so load a model before. All call ``step`` equally
    often, ``pull`` together, and other collectives of the group in the same order. Parameters of 16
    bits are averaged in float32. Besides the parameters and the state of `optimizer` there is
    memory for two copies of the parameters, and for a third where there is a center.

    Args:
        optimizer: takes the local steps; any torch optimizer, of this package only if it is not
            shared. Parameters of float16, bfloat16, float32 or float64, dense.
        every: local steps between two exchanges.
        overlap: local steps that an exchange may take: 0 to wait for it at once, at most, and by
            default, `every`.
        buffers: tensors that every exchange replaces by their mean, or moves to it, such as the
            running statistics in ``model.buffers()``; those that are not floating point stay each
            rank's own.
        group: a process group of torch.distributed. Default: the default group.

    Attributes:
        optimizer, every, overlap: as given.

    Raises:
        PeerError: from here, ``step`` or ``pull``: a rank died, or did not come within the group's
            timeout. Parameters and state are then as the local steps have left them. Under NCCL
            torch may end the process instead (``TORCH_NCCL_ASYNC_ERROR_HANDLING``).
        RuntimeError: there is no process group yet.
        TypeError, ValueError: an argument is wrong, or not the same on all ranks.
    """

    overlap: int

    #: What the ranks have in common besides the mean, if the method has it.
    _center: Flat | None = None

    @torch.no_grad()
    def __init__(
        self,
        optimizer: Any,
        every: Any,
        *,
        overlap: Any,
        buffers: Iterable[torch.Tensor],
        group: Any,
    ) -> None:
        self._check(optimizer, every)
        if overlap is None:
            overlap = every
        if isinstance(overlap, bool) or not isinstance(overlap, int) or not 0 <= overlap <= every:
            raise ValueError(
                f"overlap: expected a number of steps from 0 to every={every}, got {overlap!r}"
            )
        self._ranks = Ranks(group)
        self.__setstate__({"optimizer": optimizer, "every": every, "overlap": overlap})
        self._steps = 0
        self._begun = 0  # the step at which the last exchange began
        self._under_way = False
        floating = [b for b in _tensors_of(buffers) if b.is_floating_point()]
        tensors = {f"params[{i}]": p for i, p in enumerate(self._params())}
        tensors |= {f"buffers[{i}]": b for i, b in enumerate(floating)}
        for name, tensor in tensors.items():
            if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
                raise ValueError(
                    f"{name}: expected a dense tensor of float16, bfloat16, float32 or float64, "
                    f"got {tensor.dtype}, {tensor.layout}"
                )
            self._ranks.check_device(name, tensor)
        self._mean = Mean(self._params(), self._ranks)
        self._buffers = Mean(floating, self._ranks)
        facts = {
            "method": type(self).__name__,
            "every": every,
            "overlap": overlap,
            "params": len(self._params()),
            "buffers": len(floating),
            **{name: f"{t.dtype} of shape {tuple(t.shape)}" for name, t in tensors.items()},
            **self._prepare(),
        }
        self._ranks.agree(facts)
        with self._ranks.meeting("taking the first rank's parameters"):
            self._mean.broadcast()
            self._buffers.broadcast()
        if self._center is not None:
            self._center.copy_(self._mean.start.buffers)

    # --- The method ----------------------------------------------------------------------------

    def _prepare(self) -> dict[str, object]:
        """Makes what the method needs; returns what else all ranks must agree on."""
        raise NotImplementedError

    def _blend(self) -> None:
        """Moves the parameters by what follows from the mean, which is there."""
        raise NotImplementedError

    def pull(self) -> None:
        """Ends an exchange under way and gives all ranks the same parameters and buffers.

        All ranks call it after the same number of steps: at the end, or to evaluate the model.

        Raises:
            PeerError: a rank died or did not come.
        """
        raise NotImplementedError

    # --- Exchanges -----------------------------------------------------------------------------

    def _meet(self) -> None:
        """Ends and begins what is due after this many steps."""
        if self._under_way and self._steps >= self._begun + self.overlap:
            self._finish()
        if self._steps > self._begun and self._steps % self.every == 0:
            self._begin()
            if self.overlap == 0:
                self._finish()

    @torch.no_grad()
    def _begin(self) -> None:
        self._begun = self._steps
        with self._meeting():
            self._mean.begin()
            self._buffers.begin()
        self._under_way = True

    @torch.no_grad()
    def _finish(self) -> None:
        self._under_way = False
        with self._meeting():
            self._mean.wait()
            self._buffers.wait()
        self._blend()
        self._take(self._buffers, self._buffers.mean)

    def _take(self, tensors: Mean, target: Flat) -> None:
        """Moves tensors by as much as `target` is away from where the exchange began."""
        if self._steps > self._begun:
            tensors.shift(target)
        else:  # exactly: adding a difference would leave every rank its own rounding
            tensors.put(target)

    def _meeting(self) -> Any:
        return self._ranks.meeting(f"the exchange after step {self._begun}")

    # --- State ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The local optimizer's, and as ``"averaging"`` this rank's part of the method.

        It waits for an exchange under way and holds what has arrived, but moves nothing: training
        goes on as if it had not been called. To resume exactly, every rank saves and loads its own
        (and its own model's, after the optimizer has been made); after ``pull`` the first rank's
        model will do.

        Raises:
            PeerError: a rank died or did not come.
        """
        averaging: dict[str, Any] = {"steps": self._steps, "begun": self._begun}
        if self._under_way:
            with self._meeting():
                for mean in (self._mean, self._buffers):
                    mean.wait()
            averaging["exchange"] = {name: f.copy() for name, f in self._travelling().items()}
        if self._center is not None:
            averaging["center"] = self._center.copy()
        return {**self.optimizer.state_dict(), "averaging": averaging}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes also the state dict of a local optimizer alone.

        Raises:
            ValueError: it is that of another model.
        """
        rest = dict(state_dict)
        averaging = rest.pop("averaging", None)
        if averaging is not None:
            exchange = averaging.get("exchange")
            loaded = dict(self._travelling()) if exchange is not None else {}
            saved = dict(exchange or {})
            if self._center is not None:
                loaded["center"], saved["center"] = self._center, averaging.get("center", ())
            for name, flat in loaded.items():
                flat.check(name, saved.get(name, ()))
        self.optimizer.load_state_dict(rest)
        if averaging is not None:
            for mean in (self._mean, self._buffers):
                mean.wait()  # nothing may arrive in what is loaded
            for name, flat in loaded.items():
                flat.copy_(saved[name])
            self._steps, self._begun = averaging["steps"], averaging["begun"]
            self._under_way = exchange is not None

    def _travelling(self) -> dict[str, Flat]:
        return {
            "start": self._mean.start,
            "mean": self._mean.mean,
            "buffers start": self._buffers.start,
            "buffers mean": self._buffers.mean,
        }

    def __getstate__(self) -> NoReturn:
        """Refused: a process group cannot leave its process."""
        raise TypeError(
            f"{type(self).__name__}: expected to stay in the process that made it, got a copy or "
            "pickle; make it on every rank, or use its state_dict"
        )


def _tensors_of(buffers: Any) -> list[torch.Tensor]:
    found = list(buffers)
    for i, buffer in enumerate(found):
        if not isinstance(buffer, torch.Tensor):
            raise TypeError(f"buffers[{i}]: expected a tensor, got {type(buffer).__name__}")
    return found


class LocalSteps(PeerAveraging):
    """Local steps with periodic averaging: local SGD, by default without waiting for the mean.

    After every `every`-th step the mean m of all ranks' parameters is worked out. The parameters,
    which were s then and are x when it is there, become m + (x - s): the mean, and the progress
    since. With ``overlap=0`` that is m, as ``PeriodicModelAverager`` of torch gives it, and with
    ``every=1`` and SGD besides, data parallelism.

    An outer optimizer has a center c, the same on all ranks, and takes c - m as its gradient, as in
    DiLoCo; the parameters become c + (x - s).

    Sources: Stich, "Local SGD converges fast and communicates little", arXiv 1805.09767, overlapped
    as in CoCoD-SGD, Shen et al., arXiv 1906.12043; outer optimizers: Douillard et al., DiLoCo,
    arXiv 2311.08105, overlapped as in Streaming DiLoCo, arXiv 2501.18512.

    Args:
        optimizer, every, overlap, buffers, group: see :class:`PeerAveraging`.
        outer: makes a torch optimizer of a list of tensors, the center's; for example
            ``functools.partial(torch.optim.SGD, lr=0.7, momentum=0.9, nesterov=True)``. Default:
            none, which is plain averaging.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int,
        outer: Callable[[list[torch.Tensor]], torch.optim.Optimizer] | None = None,
        *,
        overlap: int | None = None,
        buffers: Iterable[torch.Tensor] = (),
        group: Any = None,
    ) -> None:
        self._make_outer = outer
        self._outer: torch.optim.Optimizer | None = None
        super().__init__(optimizer, every, overlap=overlap, buffers=buffers, group=group)

    def _prepare(self) -> dict[str, object]:
        if self._make_outer is None:
            return {"outer": None}
        self._center = Flat(self._params())
        self._outer = self._make_outer(self._center.views)
        if not holds(self._outer, self._center.views):
            raise TypeError(
                "outer: expected a function of a list of tensors that makes a torch optimizer of "
                f"them all, got one that makes {self._outer!r}"
            )
        return {"outer": " ".join(repr(self._outer).split())}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One local step; after every `every`-th an exchange begins."""
        loss = self.optimizer.step(closure)
        self._steps += 1
        self._meet()
        return loss

    def _blend(self) -> None:
        mean = self._mean.mean
        if self._outer is None or self._center is None:
            self._take(self._mean, mean)
            return
        for center, buffer in zip(self._center.buffers, mean.buffers, strict=True):
            torch.sub(center, buffer, out=buffer)
        for view, gradient in zip(self._center.views, mean.views, strict=True):
            view.grad = gradient
        self._outer.step()
        self._take(self._mean, self._center)

    def pull(self) -> None:
        """Gives all ranks the same model: the mean, or with an outer optimizer the center.

        What the ranks have done since the last exchange is exchanged first.

        Raises:
            PeerError: a rank died or did not come.
        """
        if self._under_way:
            self._finish()
        if self._steps > self._begun:
            self._begin()
            self._finish()

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`PeerAveraging.state_dict`, with the outer optimizer's as ``"outer"``."""
        state = super().state_dict()
        if self._outer is not None:
            state["averaging"]["outer"] = self._outer.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As :meth:`PeerAveraging.load_state_dict`."""
        super().load_state_dict(state_dict)
        outer = state_dict.get("averaging", {}).get("outer")
        if self._outer is not None and outer is not None:
            self._outer.load_state_dict(outer)


class ElasticAveraging(PeerAveraging):
    """Replicas and a center that pull at each other, all at the same time: synchronous EASGD.

    Every rank keeps a copy of the center c, which is the same on all. Before the step of every
    `every`-th gradient, and of p ranks, the parameters x_i and the center move by

        x_i -= alpha * (x_i - c)
        c += alpha * sum over i of (x_i - c) = beta * (mean of x_i - c), beta = p * alpha,

    with the x_i and c of the exchange's beginning on the right; with `overlap` the moves are made
    that many steps later. The gradient is the one computed at x_i before. With momentum in
    `optimizer` it is EAMSGD. ``pull`` makes the center the parameters.

    Source: Zhang, Choromanska and LeCun, arXiv 1412.6651, section 3.

    Args:
        optimizer, every, overlap, buffers, group: see :class:`PeerAveraging`.
        alpha: in (0, 1 / p]. Default: 0.9 / p, as in the paper.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 10,
        alpha: float | None = None,
        *,
        overlap: int | None = None,
        buffers: Iterable[torch.Tensor] = (),
        group: Any = None,
    ) -> None:
        self.alpha = alpha
        super().__init__(optimizer, every, overlap=overlap, buffers=buffers, group=group)

    def _prepare(self) -> dict[str, object]:
        size = self._ranks.size
        if self.alpha is not None and not 0 < self.alpha <= 1 / size:
            raise ValueError(
                f"alpha: expected a number in (0, 1 / {size} ranks] or None, got {self.alpha!r}"
            )
        self._weight = 0.9 / size if self.alpha is None else float(self.alpha)
        self._center = Flat(self._params())
        return {"alpha": self._weight}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One local step; before every `every`-th, but for the first, an exchange begins."""
        self._meet()
        loss = self.optimizer.step(closure)
        self._steps += 1
        return loss

    def _blend(self) -> None:
        assert self._center is not None
        start, mean = self._mean.start, self._mean.mean
        for begun, center in zip(start.buffers, self._center.buffers, strict=True):
            begun.sub_(center).mul_(-self._weight)
        self._mean.add(start)
        for center, buffer in zip(self._center.buffers, mean.buffers, strict=True):
            center.lerp_(buffer, self._weight * self._ranks.size)

    @torch.no_grad()
    def pull(self) -> None:
        """Makes the center the parameters of all ranks, and their buffers' mean the buffers.

        Raises:
            PeerError: a rank died or did not come.
        """
        if self._under_way:
            self._finish()
        self._begun = self._steps
        with self._meeting():
            self._buffers.begin()
            self._buffers.wait()
        self._take(self._buffers, self._buffers.mean)
        assert self._center is not None
        self._mean.put(self._center)
