"""Numbered batches: which examples batch i of a loop consists of, in every worker alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from asyncopt.run.orders import Drawing
from asyncopt.run.sources import Sampled, Supply

__all__ = ["DISPATCHES", "Batches", "SampledBatches"]

DISPATCHES = ("static", "dynamic")
MAX_TOTAL = (1 << 32) - 1  # what a board can count


class Batches:
    """All batches of a loop over ``epochs``, numbered from 0 to ``total - 1``.

    Args:
        supply: the data and how they are cut.
        epochs: passes over the data.
        seed: the order of the examples depends on the seed and the epoch only.
        every: each epoch is padded to a multiple of this many numbers, so that a worker that takes
            every n-th number gets the same share of each epoch. Padding has no examples.

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
        _check_total(self.total)

    def description(self) -> dict[str, Any]:
        """Settings that determine, with seed, epoch and number, a batch's examples; plain data."""
        return self._supply.description()

    def grow(self) -> bool:
        """False: ``total`` is final."""
        return False

    def final_total(self) -> int:
        """The batches of all epochs."""
        return self.total

    def is_empty(self, number: int) -> bool:
        """True if a number is padding."""
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


class SampledBatches:
    """All batches of a loop whose orders a sampler draws, numbered as far as they are drawn.

    Args:
        supply: the data and their sampler.
        drawing: the orders of this loop.
    """

    def __init__(self, supply: Sampled, drawing: Drawing) -> None:
        self._supply = supply
        self._drawing = drawing
        self._seen = drawing.total

    def description(self) -> dict[str, Any]:
        """The supply's, with a digest of the sampler's first draws."""
        first = f"{self._drawing.first_digest:08x}"
        return {**self._supply.description(), "first_order": first}

    @property
    def total(self) -> int:
        """Number of batches drawn so far."""
        return self._seen

    def grow(self) -> bool:
        """Draw the next epoch's order; False: ``total`` is final."""
        has_grown = self._drawing.grow(self._seen)
        self._seen = self._drawing.total
        _check_total(self._seen)
        return has_grown

    def final_total(self) -> int:
        """The batches of all epochs; draws the orders that are still missing."""
        while self.grow():
            pass
        return self._seen

    def is_empty(self, number: int) -> bool:
        """True if a number is padding."""
        order, place = self._drawing.find(number)
        return place >= len(order)

    def fetch(self, number: int) -> Any:
        """The batch."""
        order, place = self._drawing.find(number)
        return self._supply.source.pick(order[place])


def _check_total(total: int) -> None:
    if total > MAX_TOTAL:
        raise ValueError(
            f"epochs: expected at most {MAX_TOTAL:,} batches in one loop, got {total:,}; "
            f"use several loops"
        )


def _order(examples: int, seed: int, epoch: int) -> Tensor:
    """The epoch's permutation, int64 of shape (examples,).

    It leaves every global generator untouched.
    """
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(examples))
