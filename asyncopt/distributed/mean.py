"""Means over ranks, computed in the background while the averaged tensors change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from asyncopt.distributed.ranks import Ranks

__all__ = ["Flat", "Mean"]


class Flat:
    """Buffers for some tensors, one for each device and dtype.

    Tensors of 16 bits are held and averaged in float32.

    Attributes:
        buffers: one-dimensional, without gaps.
        views: parts of the buffers, one in the shape of each tensor, in their order.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        sizes: dict[tuple[torch.device, torch.dtype], int] = {}
        places = []
        for tensor in tensors:
            key = tensor.device, tensor.dtype if tensor.itemsize > 2 else torch.float32
            places.append((key, sizes.get(key, 0)))
            sizes[key] = sizes.get(key, 0) + tensor.numel()
        made = {
            (device, dtype): torch.empty(size, dtype=dtype, device=device)
            for (device, dtype), size in sizes.items()
        }
        self.buffers = [buffer for buffer in made.values() if buffer.numel() > 0]
        self.views = [
            made[key][begin : begin + tensor.numel()].view(tensor.shape)
            for (key, begin), tensor in zip(places, tensors, strict=True)
        ]

    def copy(self) -> list[torch.Tensor]:
        """Copies of the buffers."""
        return [buffer.clone() for buffer in self.buffers]

    def copy_(self, buffers: Sequence[torch.Tensor]) -> None:
        """Copy the values of buffers of the same layout."""
        for buffer, other in zip(self.buffers, buffers, strict=True):
            buffer.copy_(other)

    def check(self, name: str, buffers: Any) -> None:
        """Raise ValueError if `buffers`, from a state dict, have another layout."""
        mine, theirs = ([(b.dtype, b.numel()) for b in some] for some in (self.buffers, buffers))
        if mine != theirs:
            raise ValueError(
                f"state_dict: expected {name!r} with (dtype, elements) {mine}, got {theirs}; load "
                "it into the optimizer of the same model"
            )


class Mean:
    """The mean over all ranks of tensors as they were at `begin`.

    Collectives of torch.distributed run in the background, on a CUDA stream or on threads of the
    backend. They read their input after all work that was on the current stream at `begin`, and
    `wait` makes the current stream, or on the CPU the caller, wait for the result.

    Attributes:
        start: this rank's tensors at `begin`.
        mean: after `wait` the mean of all ranks' `start`, with the same bits on each.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], ranks: Ranks) -> None:
        self._tensors = list(tensors)
        self._ranks = ranks
        self._works: list[dist.Work] = []
        self.start = Flat(self._tensors)
        self.mean = Flat(self._tensors)

    def broadcast(self) -> None:
        """Set the tensors on all ranks, and `start`, to the first rank's values."""
        self._pack()
        for buffer in self.start.buffers:
            self._ranks.broadcast(buffer)
        self.put(self.start)

    def begin(self) -> None:
        """Copy the tensors and begin; they may change as soon as this returns."""
        self._pack()
        for start, mean in zip(self.start.buffers, self.mean.buffers, strict=True):
            torch.div(start, self._ranks.size, out=mean)
        self._works = [self._ranks.begin_sum(mean) for mean in self.mean.buffers]

    def wait(self) -> None:
        """Make the current stream, or on the CPU the caller, wait for `mean`."""
        works, self._works = self._works, []
        for work in works:
            work.wait()

    def put(self, target: Flat) -> None:
        """Set the tensors to `target`."""
        if self._tensors:
            torch._foreach_copy_(self._tensors, target.views)

    def shift(self, target: Flat) -> None:
        """Add `target` - `start` to the tensors, which have changed since; overwrites `start`."""
        for start, end in zip(self.start.buffers, target.buffers, strict=True):
            torch.sub(end, start, out=start)
        self.add(self.start)

    def add(self, change: Flat) -> None:
        """Add `change` to the tensors."""
        if self._tensors:
            torch._foreach_add_(self._tensors, change.views)

    def _pack(self) -> None:
        if self._tensors:
            torch._foreach_copy_(self.start.views, self._tensors)
