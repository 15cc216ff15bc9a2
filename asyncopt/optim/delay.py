"""The delay of a push: what others pushed since its worker last pulled, and what is done about it.

Step size: a push that is s versions late moves 1 / (1 + s) as far (Zhang et al., "Staleness-aware
Async-SGD", arXiv 1511.05950; among other functions of s: Bäckström et al., MindTheStep,
arXiv 1911.03444).

Gradient: the one at the parameters of now is approached from the one at those that were pulled
(Zheng et al., DC-ASGD, arXiv 1609.08326): g + strength * g * g * (now - pulled). In the adaptive
form each element's strength is divided by sqrt(mean_square + 1e-7), where mean_square is a running
mean of g * g that keeps the share m of itself per push. The paper's server keeps one such mean;
here each worker keeps one, of its own gradients.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from asyncopt.optim.sharing import Sharing

__all__ = ["Delay", "check_delay_options"]

_EPS = 1e-7  # as in the experiments of DC-ASGD


def check_delay_options(staleness_lr: Any, delay_compensation: Any, sync: str) -> None:
    """Raises ValueError for options that :class:`Delay` does not know."""
    if staleness_lr not in (None, "inverse"):
        raise ValueError(f"staleness_lr: expected 'inverse' or None, got {staleness_lr!r}")
    if delay_compensation is None:
        return
    given = delay_compensation if isinstance(delay_compensation, tuple) else (delay_compensation,)
    numbers = all(isinstance(value, int | float) for value in given)
    if not (
        numbers
        and len(given) in (1, 2)
        and 0 <= given[0] < math.inf
        and all(0 <= m < 1 for m in given[1:])
    ):
        raise ValueError(
            "delay_compensation: expected a strength >= 0 or, for the adaptive form, "
            f"(strength, m) with 0 <= m < 1; got {delay_compensation!r}"
        )
    if sync == "leashed":
        raise ValueError(
            "delay_compensation: expected a sync whose newest parameters have a fixed place, got "
            "sync='leashed'; use 'seqlock'"
        )


class Delay:
    """Staleness corrections of one worker's pushes.

    Args:
        sharing: the worker's hold on the store.
        params: its parameters, in the order of the layout.
        is_replica: whether those are copies, which then are what was pulled. In place, a copy of
            what was pulled is kept here.
        staleness_lr: ``"inverse"`` or None.
        delay_compensation: the strength, or (strength, m), or None.

    Attributes:
        compensates: whether gradients are corrected.
    """

    def __init__(
        self,
        sharing: Sharing,
        params: Sequence[torch.Tensor],
        is_replica: bool,
        staleness_lr: str | None,
        delay_compensation: float | tuple[float, float] | None,
    ) -> None:
        self._segment = sharing.store.segment
        self._slows = staleness_lr is not None
        self.compensates = delay_compensation is not None
        self._now: list[torch.Tensor] = []
        self._pulled: list[torch.Tensor] = []
        self._mean_squares: list[torch.Tensor] = []
        self._backs_up = self.compensates and not is_replica
        if delay_compensation is not None:
            self._now = [sharing.param(place) for place in sharing.layout.places]
            self._pulled = [now.clone() for now in self._now] if self._backs_up else list(params)
            if isinstance(delay_compensation, tuple):
                self._strength, self._decay = delay_compensation
                self._mean_squares = [
                    torch.zeros_like(now, dtype=_arithmetic(now.dtype)) for now in self._now
                ]
            else:
                self._strength = delay_compensation
        self._version = self._segment.version

    @torch.no_grad()
    def pulled(self) -> None:
        """Notes that the next gradient is computed from what the store holds now."""
        self._version = self._segment.version
        if self._backs_up:
            for pulled, now in zip(self._pulled, self._now, strict=True):
                pulled.copy_(now)

    def published(self) -> None:
        """Counts a version of the store that consists of this worker's own writes."""
        self._version += 1

    def computed_from(self, pulled: Sequence[torch.Tensor], version: int) -> None:
        """Notes that the next gradient was computed from `pulled`, which was pulled at `version`.

        Args:
            pulled: on the host, in the order of the parameters; they must stay what they are until
                the push.
            version: of the store.
        """
        self._version = version
        if self.compensates:
            self._pulled = list(pulled)

    def step_scale(self) -> float:
        """Factor on the step size of a push made now."""
        staleness = max(0, self._segment.version - self._version)
        return 1 / (1 + staleness) if self._slows else 1.0

    @torch.no_grad()
    def compensate_rows(self, index: int, grad: torch.Tensor, maximize: bool) -> torch.Tensor:
        """The same as :meth:`compensate` for a gradient that is sparse in its rows.

        The gradients of a repeated row are added up first. The result is coalesced.
        """
        summed = grad.to(_arithmetic(grad.dtype)).coalesce()
        values = self._compensate(index, summed.values(), maximize, summed.indices()[0])
        return torch.sparse_coo_tensor(
            summed.indices(),
            values.to(grad.dtype),
            summed.shape,
            check_invariants=False,
            is_coalesced=True,
        )

    @torch.no_grad()
    def compensate(self, index: int, grad: torch.Tensor, maximize: bool) -> torch.Tensor:
        """About what the gradient would be at the parameters of now, as a new tensor.

        Args:
            index: of the parameter.
            grad: its gradient where it was pulled.
            maximize: whether `grad` is that of something to be maximized.
        """
        return self._compensate(index, grad, maximize, ...).to(grad.dtype)

    def _compensate(
        self, index: int, grad: torch.Tensor, maximize: bool, part: Any
    ) -> torch.Tensor:
        """Compensate ``...`` or some rows, each listed once, in at least float32."""
        grad = grad.to(_arithmetic(grad.dtype))
        change = self._now[index][part] - self._pulled[index].detach()[part]
        square = grad * grad
        curvature = -self._strength * square if maximize else self._strength * square
        if self._mean_squares:
            mean_square = self._mean_squares[index]
            mean = self._decay * mean_square[part] + (1 - self._decay) * square
            # A gradient that is not finite is skipped, or spoils the parameters; not all to come.
            mean_square[part] = mean = torch.where(mean.isfinite(), mean, mean_square[part])
            curvature /= (mean + _EPS).sqrt_()
        return curvature.mul_(change).add_(grad)


def _arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which gradients are summed and corrected."""
    return torch.promote_types(dtype, torch.float32)
