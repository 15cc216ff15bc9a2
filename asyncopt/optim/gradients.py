"""Gradients: reset one by one, or kept as views of one buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from asyncopt.optim.checks import same_layout

__all__ = ["FlatGradients", "reset"]

_ALIGNMENT = 16  # bytes


class FlatGradients:
    """Make a zeroed buffer per dtype and device, and each trained ``.grad`` a view of it.

    Autograd accumulates into an existing gradient in place, so the views stay. Zeroing them all is
    one pass over contiguous memory. Views begin where the widest loads and stores can.

    User code may replace a parameter, its memory, its gradient or the gradient's memory. A step
    therefore reads the gradients that are there, as it does without a buffer, and ``zero_grad``
    makes the gradients views of a fitting buffer again.

    Args:
        params: the parameters, in order. A gradient that one has already is kept. One that does not
            require a gradient has no view.

    Attributes:
        grads: what each parameter's ``.grad`` is between steps: a view, or None if it is frozen.
        addresses: of the views in the buffers; 0 where there is no view.
    """

    def __init__(self, params: Iterable[torch.Tensor]) -> None:
        every = list(params)
        self._params = every
        self._buffers: list[torch.Tensor] = []
        self._views: list[torch.Tensor | None] = [None] * len(every)
        trained = [i for i, param in enumerate(every) if param.requires_grad]
        for dtype, device in dict.fromkeys((every[i].dtype, every[i].device) for i in trained):
            members = [i for i in trained if (every[i].dtype, every[i].device) == (dtype, device)]
            unit = _ALIGNMENT // dtype.itemsize
            ends = itertools.accumulate(-(-every[i].numel() // unit) * unit for i in members)
            offsets = [0, *ends]
            buffer = torch.zeros(offsets.pop(), dtype=dtype, device=device)
            self._buffers.append(buffer)
            for i, offset in zip(members, offsets, strict=True):
                param = every[i]
                self._views[i] = view = buffer.as_strided(param.shape, param.stride(), offset)
                if param.grad is not None:
                    view.copy_(param.grad)
        self.addresses = [0 if view is None else view.data_ptr() for view in self._views]
        self.grads: list[torch.Tensor | None] = [None] * len(every)
        self.attach()

    def zero(self) -> None:
        """Zeroes the buffers."""
        for buffer in self._buffers:
            buffer.zero_()

    def fits(self, params: list[torch.Tensor]) -> bool:
        """True if the buffers are laid out for the parameters as they are now."""
        return len(params) == len(self._params) and all(
            param is known
            and (
                not param.requires_grad
                or (
                    view is not None
                    and (view.dtype, view.device) == (param.dtype, param.device)
                    and same_layout(view, param)
                )
            )
            for param, known, view in zip(params, self._params, self._views, strict=True)
        )

    def attach(self) -> None:
        """Makes every trained parameter's gradient its view again, and that of the others None."""
        for i, (param, view) in enumerate(zip(self._params, self._views, strict=True)):
            grad = self.grads[i]
            if view is None or not param.requires_grad:
                grad = None
            elif (
                grad is None or grad.data_ptr() != self.addresses[i] or not same_layout(grad, view)
            ):
                grad = view.data  # with a version counter of its own, as gradients have
            self.grads[i] = param.grad = grad

    def release_frozen(self) -> None:
        """Sets to None the gradients of zeros of parameters that no longer require a gradient.

        ``backward`` has not reached them, so that without a buffer they would be None, and momentum
        and weight decay would not be applied.
        """
        for i, (param, grad) in enumerate(zip(self._params, self.grads, strict=True)):
            if grad is None or param.requires_grad or param.grad is not grad:
                continue
            if not bool(grad.any()):
                self.grads[i] = param.grad = None


def reset(params: Iterable[torch.Tensor], set_to_none: bool) -> None:
    """Sets gradients to None or to zero, as ``torch.optim.Optimizer.zero_grad``.

    torch's own imports its compiler at the first call, which takes more than a second.
    """
    if set_to_none:
        for param in params:
            param.grad = None
        return
    grads = [param.grad for param in params if param.grad is not None]
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
