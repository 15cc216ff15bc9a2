"""``DataLoader`` support: options that a run uses, and options that it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data._utils.pin_memory import pin_memory

from asyncopt.run.columns import Source
from asyncopt.run.datasets import Unbatched, check_map_style, from_dataset, length
from asyncopt.run.random_states import Stream

__all__ = ["LoaderSampler", "check_loader", "plain_cut", "source_of"]

# Methods that make a loader's batches. A subclass that overrides one is refused.
_ITERATION = ("__iter__", "_get_iterator", "_index_sampler", "_auto_collation")
# Number of examples per epoch that is always allowed; many more count as an endless stream.
_MANY = 10_000_000


def check_loader(loader: DataLoader[Any], **options: Any) -> None:
    """Raise for a loader whose batches a run cannot number and distribute.

    Args:
        loader: a loader.
        options: arguments of ``Worker.batches`` that a loader already defines.

    Raises:
        TypeError: its class or its dataset overrides how batches are made.
        ValueError: an option is not supported.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected nothing beside a DataLoader, which brings its own, got {value!r}"
            )
    kind = type(loader)
    for name in _ITERATION:
        if getattr(kind, name) is not getattr(DataLoader, name):
            raise TypeError(
                f"data: expected a DataLoader whose batches are those of its sampler, got "
                f"{kind.__name__} with its own {name}; pass a DataLoader, and put what "
                f"{kind.__name__} does into collate_fn, the dataset or fn"
            )
    check_map_style("data.dataset", loader.dataset)
    if loader.num_workers:
        raise ValueError(
            f"data.num_workers: expected 0, as each worker of the run reads its own batches, got "
            f"{loader.num_workers}; leave num_workers and the options that go with it out, and "
            f"start more workers if reading takes long"
        )
    if loader.timeout:
        raise ValueError(
            f"data.timeout: expected 0, as no other process is waited for, got {loader.timeout}; "
            f"leave it out"
        )


def source_of(loader: DataLoader[Any]) -> Source:
    """Source of a loader's batches, in pinned memory if ``pin_memory`` is set and available."""
    dataset, collate = loader.dataset, loader.collate_fn
    if loader.batch_sampler is None:
        source: Source = Unbatched(dataset, length(dataset) or 0, collate)
    else:
        has_sampler = getattr(loader.sampler, "data_source", None) is not dataset
        source = from_dataset("data.dataset", dataset, collate, has_sampler=has_sampler)
    return _Pinned(source) if loader.pin_memory and torch.accelerator.is_available() else source


@dataclass(frozen=True)
class _Pinned:
    """A source whose batches are copied to page-locked memory."""

    source: Source

    @property
    def examples(self) -> int:
        return self.source.examples

    def pick(self, which: Any) -> Any:
        return pin_memory(self.source.pick(which))


def plain_cut(loader: DataLoader[Any]) -> tuple[int, bool, bool] | None:
    """Batch size, ``shuffle`` and ``drop_last``, if these alone determine a loader's batches.

    Returns:
        None for any other sampler, or one with a generator of its own.
    """
    cut = loader.batch_sampler
    if type(cut) is not BatchSampler:
        return None
    sampler: Any = cut.sampler
    if type(sampler) not in (SequentialSampler, RandomSampler):
        return None
    shuffle = type(sampler) is RandomSampler
    if shuffle and (sampler.replacement or sampler.generator is not None):
        return None
    is_whole = len(sampler.data_source) == len(sampler) == length(loader.dataset)
    return (cut.batch_size, shuffle, cut.drop_last) if is_whole else None


class LoaderSampler:
    """Draws the order of a loader's examples from its batch sampler, else from its sampler.

    The orders are those of successive calls of ``iter(loader)``. If nothing in the loader has its
    own generator, they depend on the seed and the epoch alone.

    Args:
        loader: the loader. Its samplers and its generator are not copied, so they advance.

    Attributes:
        batch_size: the loader's; None if a batch sampler, or the dataset, makes the batches.
        drop_last: the loader's.
        name: name of the sampler, for messages.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._index: Any = loader._index_sampler
        self._generator = loader.generator
        self.batch_size, self.drop_last = loader.batch_size, loader.drop_last
        declared = length(loader.dataset) or 0, length(self._index) or 0
        self._most = 10 * max(_MANY // 10, *declared)
        inner: Any = getattr(self._index, "sampler", None)
        self._with_epoch = [
            (each.set_epoch, first if isinstance(first := getattr(each, "epoch", 0), int) else 0)
            for each in (self._index, inner)
            if callable(getattr(each, "set_epoch", None))
        ]
        self.name = type(self._index if inner is None else inner).__name__

    def draw(self, seed: int, epoch: int) -> list[Any]:
        """Draw the order of an epoch; call it for epochs 0, 1, 2, ... in turn.

        Samplers with ``set_epoch``, such as ``DistributedSampler``, get the epoch, counted from
        their first one.

        Args:
            seed: with the epoch, it seeds the global generators of torch, numpy and Python for the
                draw.
            epoch: number of the epoch.

        Returns:
            Keys of the dataset for each batch: a list, or one key with ``batch_size=None``.

        Raises:
            ValueError: the sampler draws without end.
        """
        for set_epoch, first in self._with_epoch if epoch else ():
            set_epoch(first + epoch)
        batches, examples = [], 0
        with Stream(seed, (epoch,)).temporarily():
            drawn = iter(self._index)
            # iter(loader) draws this number for the seeds of its processes.
            torch.empty((), dtype=torch.int64).random_(generator=self._generator)
            for batch in drawn:
                batches.append(batch)
                examples += len(batch) if isinstance(batch, list | tuple) else 1
                if examples > self._most:
                    raise ValueError(
                        f"data.sampler: expected an epoch that ends, got more than {self._most:,} "
                        f"examples from {self.name}; limit it, for instance by itertools.islice in "
                        f"its __iter__"
                    )
        return batches
