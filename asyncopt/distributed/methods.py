"""The methods of averaging between ranks: local steps and elastic averaging."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from asyncopt.distributed.averaging import PeerAveraging
from asyncopt.distributed.mean import Flat
from asyncopt.optim.wrapper import holds

__all__ = ["ElasticAveraging", "LocalSteps"]


class LocalSteps(PeerAveraging):
    """Local steps with periodic averaging: local SGD, by default without waiting for the mean.

    After every `every`-th step the mean m of all ranks' parameters is computed. The parameters,
    which were s then and are x when m arrives, become m + (x - s): the mean plus the progress
    since. With ``overlap=0`` that is m, as in torch's ``PeriodicModelAverager``; with ``every=1``
    and SGD in addition, it is data parallelism.

    An outer optimizer has a center c, the same on all ranks, and takes c - m as its gradient, as in
    DiLoCo; the parameters become c + (x - s). ``pull`` exchanges the steps since the last exchange,
    so that all have the mean, or the center.

    Sources: Stich, "Local SGD converges fast and communicates little", arXiv 1805.09767, overlapped
    as in CoCoD-SGD, Shen et al., arXiv 1906.12043; outer optimizers: Douillard et al., DiLoCo,
    arXiv 2311.08105, overlapped as in Streaming DiLoCo, arXiv 2501.18512.

    Args:
        optimizer, every, overlap, model, buffers, group: see :class:`PeerAveraging`.
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
        model: torch.nn.Module | None = None,
        buffers: Iterable[torch.Tensor] | None = None,
        group: Any = None,
    ) -> None:
        self._make_outer = outer
        self._outer: torch.optim.Optimizer | None = None
        super().__init__(
            optimizer, every, overlap=overlap, model=model, buffers=buffers, group=group
        )

    def _prepare(self) -> dict[str, object]:
        if self._make_outer is None:
            return {"outer": None}
        if not callable(self._make_outer):
            raise TypeError(
                "outer: expected a function of a list of tensors that makes a torch optimizer of "
                f"them all, got {type(self._make_outer).__name__}"
            )
        self._center = Flat(self._params())
        self._outer = self._make_outer(self._center.views)
        if not holds(self._outer, self._center.views):
            raise TypeError(
                "outer: expected a function of a list of tensors that makes a torch optimizer of "
                f"them all, got one that makes {self._outer!r}"
            )
        return {"outer": " ".join(repr(self._outer).split())}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a local step; after every `every`-th one begin an exchange."""
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
    """Elastic averaging between replicas and a center: synchronous EASGD.

    Every rank keeps a copy of the center c, which is the same on all. Before the step of every
    `every`-th gradient, on p ranks, the parameters x_i and the center move by

        x_i -= alpha * (x_i - c)
        c += alpha * sum over i of (x_i - c) = beta * (mean of x_i - c), beta = p * alpha,

    with the x_i and c of the exchange's beginning on the right; with `overlap` the moves are made
    that many steps later. The gradient is the one computed at x_i before. With momentum in
    `optimizer` it is EAMSGD. ``pull`` exchanges what has been done since the last exchange, and
    makes the center the parameters.

    Source: Zhang, Choromanska and LeCun, arXiv 1412.6651, section 3.

    Args:
        optimizer, every, overlap, model, buffers, group: see :class:`PeerAveraging`.
        alpha: in (0, 1 / p]. Default: 0.9 / p, as in the paper.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        every: int = 10,
        alpha: float | None = None,
        *,
        overlap: int | None = None,
        model: torch.nn.Module | None = None,
        buffers: Iterable[torch.Tensor] | None = None,
        group: Any = None,
    ) -> None:
        self.alpha = alpha
        super().__init__(
            optimizer, every, overlap=overlap, model=model, buffers=buffers, group=group
        )

    def _prepare(self) -> dict[str, object]:
        size = self._ranks.size
        alpha = self.alpha
        if alpha is not None and not (hasattr(alpha, "__float__") and 0 < alpha <= 1 / size):
            raise ValueError(
                f"alpha: expected a number in (0, 1 / {size} ranks] or None, got {alpha!r}"
            )
        self._weight = 0.9 / size if alpha is None else float(alpha)
        self._center = Flat(self._params())
        return {"alpha": self._weight}

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a local step; before every `every`-th one but the first begin an exchange."""
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

    def _unite(self) -> None:
        assert self._center is not None
        self._mean.put(self._center)
