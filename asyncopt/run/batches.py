"""Static shards: which batches of which epoch a worker trains on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_batches", "epoch_order", "iterate_batches"]


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
    return int(value)


def check_batches(data: Any, batch_size: Any, epochs: Any, seed: Any) -> tuple[Tensor, ...]:
    """Raise for what ``Worker.batches`` cannot serve; return the data's tensors.

    Raises:
        TypeError: ``data`` is neither a tensor nor a tuple of tensors.
        ValueError: tensors without a first dimension or with unequal ones; sizes out of range.
    """
    tensors = data if isinstance(data, tuple) else (data,)
    if not tensors:
        raise ValueError("data: expected a tensor or a tuple of tensors, got an empty tuple")
    for index, tensor in enumerate(tensors):
        name = f"data[{index}]" if isinstance(data, tuple) else "data"
        expected = "a tensor" if isinstance(data, tuple) else "a tensor or a tuple of tensors"
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{name}: expected {expected}, got {type(tensor).__name__}; "
                f"convert it, for instance with torch.as_tensor"
            )
        if tensor.dim() == 0:
            raise ValueError(f"{name}: expected examples along dimension 0, got a scalar tensor")
        if tensor.shape[0] != tensors[0].shape[0]:
            raise ValueError(
                f"{name}: expected {tensors[0].shape[0]} examples, as in data[0], "
                f"got {tensor.shape[0]}"
            )
    _integer("batch_size", batch_size, 1)
    _integer("epochs", epochs, 0)
    _integer("seed", seed, 0)
    return tensors


def epoch_order(examples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation, int64 of shape (examples,): the same in every worker.

    It depends on ``(seed, epoch)`` alone and leaves every global generator untouched.
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(examples))


def iterate_batches(
    tensors: tuple[Tensor, ...],
    batch_size: int,
    epochs: int,
    *,
    rank: int,
    world_size: int,
    shuffle: bool,
    seed: int,
    drop_last: bool,
) -> Iterator[tuple[Tensor, ...]]:
    """Batches ``rank``, ``rank + world_size``, ... of each epoch, one tensor per tensor of data."""
    examples = tensors[0].shape[0]
    end = examples - examples % batch_size if drop_last else examples
    for epoch in range(epochs):
        order = epoch_order(examples, seed, epoch) if shuffle else None
        for start in range(rank * batch_size, end, world_size * batch_size):
            share = slice(start, start + batch_size)
            if order is None:  # examples that lie side by side need no copy
                yield tuple(tensor[share] for tensor in tensors)
            else:
                index = order[share]
                yield tuple(tensor.index_select(0, index.to(tensor.device)) for tensor in tensors)
