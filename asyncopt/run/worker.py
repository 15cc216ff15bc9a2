"""What ``fn`` gets as its first argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, overload

from torch import Tensor

from asyncopt.run.batches import check_batches, iterate_batches

__all__ = ["Worker"]


class Worker:
    """One worker's view of its run: who it is, where the others are, which data is its own.

    Attributes:
        rank: this worker's number, 0 to ``world_size - 1``.
        world_size: number of workers in the run.
    """

    def __init__(self, rank: int, world_size: int, meet: Callable[[float], None]) -> None:
        self.rank = rank
        self.world_size = world_size
        self._meet = meet

    def __repr__(self) -> str:
        return f"Worker(rank={self.rank}, world_size={self.world_size})"

    def barrier(self, timeout: float = 60.0) -> None:
        """Wait until every worker of the run has called this.

        Call it from one thread per worker. A barrier that failed stays failed for all workers.

        Args:
            timeout: seconds to wait for the others.

        Raises:
            RunTimeout: they did not all come in time, or one has already returned from ``fn``.
        """
        if not 0 < timeout < math.inf:
            raise ValueError(f"timeout: expected seconds > 0, got {timeout!r}")
        self._meet(float(timeout))

    @overload
    def batches(
        self,
        data: Tensor,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Tensor]: ...

    @overload
    def batches(
        self,
        data: tuple[Tensor, ...],
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Iterator[tuple[Tensor, ...]]: ...

    def batches(
        self,
        data: Any,
        batch_size: int,
        epochs: int = 1,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
    ) -> Iterator[Any]:
        """This worker's share of the data, batch by batch.

        In every epoch all workers cut the same permutation into the same batches, and worker ``r``
        takes batches ``r``, ``r + world_size``, ...: together they see each example exactly once
        per epoch, and one worker alone sees all of them in the order that several share. Workers do
        not wait for each other, neither between batches nor between epochs.

        Args:
            data: a tensor with examples along dimension 0, or a tuple of such tensors, equally
                long.
            batch_size: examples in a batch; the epoch's last batch may be smaller.
            epochs: passes over the data.
            shuffle: permute the examples anew in each epoch, by ``(seed, epoch)`` alone. Without it
                batches are views of ``data``, not copies.
            seed: an integer >= 0, the same in every worker.
            drop_last: leave the epoch's last batch out if it is smaller than ``batch_size``.

        Returns:
            An iterator over tensors, or over tuples of tensors if ``data`` is a tuple.

        Raises:
            TypeError, ValueError: at the call, before the first batch.
        """
        tensors = check_batches(data, batch_size, epochs, seed)
        shares = iterate_batches(
            tensors,
            batch_size,
            epochs,
            rank=self.rank,
            world_size=self.world_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
        )
        return shares if isinstance(data, tuple) else (batch for (batch,) in shares)
