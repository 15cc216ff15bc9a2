"""Orders that samplers draw, epoch by epoch, and the numbers of their batches.

Each process of a run draws the orders of a loop itself, with the same seeds, one epoch after the
other; threads of one process share them. Digests of the orders are compared between processes
before the first batch of an epoch.
"""

from __future__ import annotations

import re
import threading
import zlib
from bisect import bisect_right
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import torch

__all__ = ["Drawing", "Drawings", "Order"]

_NUMBERS = (int, np.int64, np.int32)


class Order:
    """The batches of one epoch, as a sampler drew them.

    Args:
        batches: for each batch, a list of keys of the dataset, or one key.

    Attributes:
        digest: 32-bit digest of all batches.
    """

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches
        self._numbers: torch.Tensor | None = None  # 8 bytes for each example
        if all(isinstance(batch, list | tuple) for batch in batches):
            flat = list(chain.from_iterable(batches))
            if set(map(type, flat)).issubset(_NUMBERS):
                self._numbers = torch.tensor(flat, dtype=torch.int64, device="cpu")
                self._batches = np.cumsum([0, *map(len, batches)]).tolist()
        # Leave out addresses from default reprs, which differ between processes.
        self.digest = zlib.crc32(re.sub(r" at 0x\w+", "", repr(self._batches)).encode())
        if self._numbers is not None:
            self.digest = zlib.crc32(self._numbers.numpy().data, self.digest)

    def __len__(self) -> int:
        return len(self._batches) - (self._numbers is not None)

    def __getitem__(self, place: int) -> Any:
        """The argument of ``Source.pick`` for a batch."""
        if self._numbers is None:
            return self._batches[place]
        return self._numbers[self._batches[place] : self._batches[place + 1]]


class Drawing:
    """The orders of one loop's epochs, drawn when the first worker of this process needs them.

    Args:
        draw: called with the epochs 0, 1, 2, ... in turn, for their batches.
        epochs: number of epochs.
        every: each epoch is padded to a multiple of this many numbers; see ``Batches``.
        agree: called with an epoch and the digest of its order; raises if the digest of another
            worker differs.
        least: the least number that a worker may still get. Orders before it are dropped.

    Attributes:
        first_digest: digest of the order of the first epoch; 0 if there are no epochs.
    """

    def __init__(
        self,
        draw: Callable[[int], list[Any]],
        epochs: int,
        every: int,
        agree: Callable[[int, int], None],
        least: Callable[[], int],
    ) -> None:
        self._draw = draw
        self._epochs = epochs
        self._every = every
        self._agree = agree
        self._least = least
        self._lock = threading.Lock()
        self._ends: list[int] = []  # of the epochs drawn, in numbers
        self._orders: dict[int, Order] = {}
        self.first_digest = 0
        self.grow(0)

    @property
    def total(self) -> int:
        """Numbers of all epochs that have been drawn."""
        return self._ends[-1] if self._ends else 0

    def grow(self, total: int) -> bool:
        """Draw orders until there are more numbers than ``total``.

        Returns:
            False if there are no more epochs.
        """
        with self._lock:
            while self.total <= total:
                if len(self._ends) == self._epochs:
                    return False
                self._draw_next()
            return True

    def _draw_next(self) -> None:
        epoch = len(self._ends)
        order = Order(self._draw(epoch))
        self._agree(epoch, order.digest)
        if epoch == 0:
            self.first_digest = order.digest
        least = self._least()
        for earlier in [each for each in self._orders if self._ends[each] <= least]:
            del self._orders[earlier]
        self._orders[epoch] = order
        self._ends.append(self.total + -(-len(order) // self._every) * self._every)

    def find(self, number: int) -> tuple[Order, int]:
        """The order of a batch's epoch, and the batch's index in it; past the end for padding."""
        if number >= self.total:  # a replacement may begin with a number of a later epoch
            self.grow(number)
        with self._lock:
            epoch = bisect_right(self._ends, number)
            return self._orders[epoch], number - (self._ends[epoch - 1] if epoch else 0)


class Drawings:
    """The drawings of a run's loops in this process, by the numbers of the loops.

    Args:
        are_shared: True if all workers of the run are threads of this process. An unpickled object
            belongs to a worker in its own process.
    """

    def __init__(self, *, are_shared: bool = True) -> None:
        self._are_shared = are_shared
        self._lock = threading.Lock()
        self._drawings: dict[int, Drawing] = {}

    def __reduce__(self) -> tuple[Callable[[], Drawings], tuple[()]]:
        return _of_process, ()

    def of(
        self, number: int, rank: int, world_size: int, make: Callable[[set[int]], Drawing]
    ) -> Drawing:
        """The drawing of a loop, made when the first worker of this process needs it.

        Args:
            number: of the loop.
            rank: of the worker.
            world_size: number of workers in the run.
            make: called with the ranks of this process's workers.
        """
        with self._lock:
            if number not in self._drawings:
                ranks = range(world_size) if self._are_shared else (rank,)
                self._drawings[number] = make(set(ranks))
            return self._drawings[number]

    def leave(self, number: int) -> None:
        """End a worker's loop. Other threads or replacements may still need its orders."""
        if not self._are_shared:
            self._drawings.pop(number, None)


def _of_process() -> Drawings:
    return Drawings(are_shared=False)
