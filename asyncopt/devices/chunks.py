"""Chunks: parameters, or their gradients, that are transferred in one block of memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

__all__ = ["CHUNK_BYTES", "Chunk", "cut", "views"]

#: Maximum bytes of a chunk: enough to use a PCIe link well, for a few hundred microseconds.
CHUNK_BYTES = 4 << 20

_LEAST = 256 << 10  # bytes: below this size latency dominates a copy
_PARTS = 8  # a smaller model is cut into this many chunks, so that transfers overlap computing

_ALIGNMENT = 64  # bytes: of every tensor in a chunk


@dataclass(frozen=True)
class Chunk:
    """Parameters by number, and where each begins in the chunk.

    Attributes:
        params: numbers of the parameters.
        offsets: in bytes, one for each.
        nbytes: of the whole chunk.
    """

    params: tuple[int, ...]
    offsets: tuple[int, ...]
    nbytes: int


def cut(order: Iterable[int], sizes: Sequence[int]) -> list[Chunk]:
    """Cut parameters into chunks.

    A parameter that is larger than a chunk gets its own chunk.

    Args:
        order: numbers of parameters, in the order in which their gradients arrive.
        sizes: of all parameters of the model, in bytes.
    """
    most = min(CHUNK_BYTES, max(_LEAST, sum(sizes) // _PARTS))
    chunks: list[Chunk] = []
    params: list[int] = []
    offsets: list[int] = []
    end = 0
    for index in order:
        nbytes = -(-sizes[index] // _ALIGNMENT) * _ALIGNMENT
        if params and end + nbytes > most:
            chunks.append(Chunk(tuple(params), tuple(offsets), end))
            params, offsets, end = [], [], 0
        params.append(index)
        offsets.append(end)
        end += nbytes
    if params:
        chunks.append(Chunk(tuple(params), tuple(offsets), end))
    return chunks


def views(buffer: torch.Tensor, chunk: Chunk, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors in a chunk's memory.

    Args:
        buffer: uint8, ``chunk.nbytes`` of them.
        chunk: the layout.
        like: tensors by the numbers of parameters, for dtypes, shapes and strides.
    """
    found = []
    for index, offset in zip(chunk.params, chunk.offsets, strict=True):
        tensor = like[index]
        flat = buffer[offset : offset + tensor.numel() * tensor.element_size()].view(tensor.dtype)
        found.append(flat.as_strided(tensor.shape, tensor.stride(), flat.storage_offset()))
    return found
