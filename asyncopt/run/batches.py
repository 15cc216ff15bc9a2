"""Numbered batches: which examples batch i of a loop consists of, in every worker alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncopt.run.sources import Supply

__all__ = ["DISPATCHES", "Batches"]

DISPATCHES = ("static", "dynamic")
MAX_TOTAL = (1 << 32) - 1  # what a board can count


class Batches:
    """All batches of a loop over ``epochs``, numbered from 0 to ``total - 1``.

    Args:
        supply: the data and how they are cut.
        epochs: passes over the data.
        seed: with the epoch, it alone decides the order of the examples.
        every: each epoch is filled up to a multiple of this many numbers, so that a worker that
            takes every n-th one has the same share of all epochs. The numbers filled in are empty.

    Raises:
        ValueError: there are more batches than a loop can have.
    """

    def __init__(self, supply: Supply, epochs: int, seed: int, every: int = 1) -> None:
        examples, size = supply.source.examples, supply.batch_size
        self._supply = supply
        self._seed = seed
        self._end = examples - examples % size if supply.drop_last else examples
        self._per_epoch = -(-self._end // size)
        self._stride = -(-self._per_epoch // every) * every
        self._epoch = -1  # of _order
        self._order = torch.empty(0, dtype=torch.int64, device="cpu")
        self.total = self._stride * epochs
        if self.total > MAX_TOTAL:
            raise ValueError(
                f"epochs: expected at most {MAX_TOTAL:,} batches in one loop, got {self.total:,}; "
                f"use several loops"
            )

    def is_empty(self, number: int) -> bool:
        """Whether a number was only filled in."""
        return number % self._stride >= self._per_epoch

    def fetch(self, number: int) -> Any:
        """The batch."""
        epoch, place = divmod(number, self._stride)
        start = place * self._supply.batch_size
        share = slice(start, min(start + self._supply.batch_size, self._end))
        if not self._supply.shuffle:  # examples that lie side by side need no copy
            return self._supply.source.pick(share)
        if epoch != self._epoch:
            self._order = _order(self._supply.source.examples, self._seed, epoch)
            self._epoch = epoch
        return self._supply.source.pick(self._order[share])


def _order(examples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation, int64 of shape (examples,).

    It leaves every global generator untouched.
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(examples))
