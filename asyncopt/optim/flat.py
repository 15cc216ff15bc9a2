"""Gradients as views of one buffer."""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["FlatGradients"]


class FlatGradients:
    """One zeroed buffer per dtype, and every parameter's ``.grad`` a view of it.

    Autograd accumulates into an existing gradient in place, so the views stay. Zeroing them all is
    one pass over contiguous memory.

    Args:
        params: the parameters, in order. A gradient that one has already is kept.
    """

    def __init__(self, params: Iterable[torch.Tensor]) -> None:
        every = list(params)
        self._buffers: list[torch.Tensor] = []
        self._views: list[tuple[torch.Tensor, torch.Tensor]] = []
        for dtype in dict.fromkeys(p.dtype for p in every):
            members = [p for p in every if p.dtype == dtype]
            buffer = torch.zeros(sum(p.numel() for p in members), dtype=dtype)
            self._buffers.append(buffer)
            offset = 0
            for param in members:
                view = buffer.as_strided(param.shape, param.stride(), offset)
                offset += param.numel()
                if param.grad is not None:
                    view.copy_(param.grad)
                param.grad = view
                self._views.append((param, view))

    def zero(self) -> None:
        """Zeroes the buffers and gives every parameter its view back."""
        for buffer in self._buffers:
            buffer.zero_()
        for param, view in self._views:
            if param.grad is not view:
                param.grad = view
