"""Gradients as views of one buffer."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

__all__ = ["FlatGradients"]

_ALIGNMENT = 16  # bytes


class FlatGradients:
    """One zeroed buffer per dtype and device, and every parameter's ``.grad`` a view of it.

    Autograd accumulates into an existing gradient in place, so the views stay. Zeroing them all is
    one pass over contiguous memory. Views begin where the widest loads and stores can.

    Args:
        params: the parameters, in order. A gradient that one has already is kept.

    Attributes:
        views: the gradients, in the order of the parameters.
    """

    def __init__(self, params: Iterable[torch.Tensor]) -> None:
        every = list(params)
        self._buffers: list[torch.Tensor] = []
        self._params = every
        self.views: list[torch.Tensor] = [torch.empty(0)] * len(every)
        for dtype, device in dict.fromkeys((p.dtype, p.device) for p in every):
            members = [i for i, p in enumerate(every) if (p.dtype, p.device) == (dtype, device)]
            unit = _ALIGNMENT // dtype.itemsize
            ends = itertools.accumulate(-(-every[i].numel() // unit) * unit for i in members)
            offsets = [0, *ends]
            buffer = torch.zeros(offsets.pop(), dtype=dtype, device=device)
            self._buffers.append(buffer)
            for i, offset in zip(members, offsets, strict=True):
                param = every[i]
                # .data: with a version counter of its own, which tells whether it was written.
                view = buffer.as_strided(param.shape, param.stride(), offset).data
                if param.grad is not None:
                    view.copy_(param.grad)
                self.views[i] = view
        self.attach()

    def zero(self) -> None:
        """Zeroes the buffers."""
        for buffer in self._buffers:
            buffer.zero_()

    def attach(self) -> None:
        """Makes every parameter's gradient its view again."""
        for param, view in zip(self._params, self.views, strict=True):
            param.grad = view
