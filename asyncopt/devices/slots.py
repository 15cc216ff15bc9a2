"""Buffers of one push on the device and on the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from asyncopt.devices.chunks import Chunk, views
from asyncopt.devices.lanes import Ticket

__all__ = ["Slot"]


class Slot:
    """Buffers for the gradients of one push, and for the parameters pulled after it.

    Both pass through private host memory, page-locked for a CUDA device. The device must not read
    the store itself, because that would bypass the engine's locks and versions.

    Args:
        chunks: the chunks of the model.
        like: the parameters on the host, by number; the first gradient is computed from their
            values.
        device: where gradients are computed.
        version: the store's version of the parameters.

    Attributes:
        packed: per chunk, uint8 on the device: gradients as computed.
        landed: per chunk, uint8 on the host: the gradients after the copy.
        pulled: per chunk, uint8 on the host: parameters to be copied to the device.
        packed_grads, grads, params: the tensors in these, by the numbers of parameters.
        push: the push that uses the slot, or used it last.
        version: of the store, where `params` were pulled.
    """

    def __init__(
        self,
        chunks: Sequence[Chunk],
        like: Sequence[torch.Tensor],
        device: torch.device,
        version: int,
    ) -> None:
        pin = device.type == "cuda"

        def host(chunk: Chunk) -> torch.Tensor:
            return torch.empty(chunk.nbytes, dtype=torch.uint8, device="cpu", pin_memory=pin)

        self.packed = [torch.empty(c.nbytes, dtype=torch.uint8, device=device) for c in chunks]
        self.landed = [host(chunk) for chunk in chunks]
        self.pulled = [host(chunk) for chunk in chunks]
        self.packed_grads = _by_number(self.packed, chunks, like)
        self.grads = _by_number(self.landed, chunks, like)
        self.params = _by_number(self.pulled, chunks, like)
        for param, value in zip(self.params, like, strict=True):
            param.copy_(value)
        self.push: Ticket | None = None
        self.version = version


def _by_number(
    buffers: Sequence[torch.Tensor], chunks: Sequence[Chunk], like: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    found = list(like)
    for buffer, chunk in zip(buffers, chunks, strict=True):
        for number, view in zip(chunk.params, views(buffer, chunk, like), strict=True):
            found[number] = view
    return found
