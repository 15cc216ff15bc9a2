"""Sources of batches, and how each epoch is cut into them.

A source holds examples and gives any of them as one batch; none copies its data. The caller or a
``DataLoader`` decides how to cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset, default_collate

from asyncopt._checks import whole
from asyncopt.run.columns import Source, from_columns
from asyncopt.run.datasets import from_dataset
from asyncopt.run.loaders import LoaderSampler, check_loader, plain_cut, source_of

__all__ = [
    "Sampled",
    "Source",
    "Supply",
    "check_supply",
]


@dataclass(frozen=True)
class Supply:
    """A source that is cut into batches of equal size, in order or shuffled."""

    source: Source
    batch_size: int
    shuffle: bool
    drop_last: bool

    def description(self) -> dict[str, Any]:
        """Settings that determine, with seed, epoch and number, a batch's examples; plain data."""
        return {
            "source": type(self.source).__name__,
            "examples": self.source.examples,
            "batch_size": self.batch_size,
            "order": "shuffled" if self.shuffle else "sequential",
            "drop_last": self.drop_last,
        }


@dataclass(frozen=True)
class Sampled:
    """A source whose batches a loader's sampler draws."""

    source: Source
    sampler: LoaderSampler

    def description(self) -> dict[str, Any]:
        """Settings as of :class:`Supply`, with digests of the orders that the sampler draws."""
        return {
            "source": type(self.source).__name__,
            "examples": self.source.examples,
            "batch_size": self.sampler.batch_size,
            "order": self.sampler.name,
            "drop_last": self.sampler.drop_last,
        }


def check_supply(
    data: Any, batch_size: Any, shuffle: bool | None, drop_last: bool | None
) -> Supply | Sampled:
    """Source of examples for ``Worker.batches``, from the arguments of the same names.

    Raises:
        TypeError: examples of ``data`` cannot be read by number.
        ValueError: ``data`` has no examples along the first dimension, or columns of unequal
            length; ``batch_size`` is out of range; an option is already set by the ``DataLoader``,
            or the loader has an option that a run does not support.
    """
    if isinstance(data, DataLoader):
        check_loader(data, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
        source, cut = source_of(data), plain_cut(data)
        return Sampled(source, LoaderSampler(data)) if cut is None else Supply(source, *cut)
    is_dataset = isinstance(data, Dataset)
    source = from_dataset("data", data, default_collate) if is_dataset else from_columns(data)
    return Supply(source, whole("batch_size", batch_size, 1), shuffle is not False, bool(drop_last))
