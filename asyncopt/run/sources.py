"""Where batches come from: tensors, numpy arrays, memory maps, torch's datasets and data loaders.

A source holds examples and gives any of them as one batch. None copies its data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)

__all__ = ["Source", "Supply", "check_supply"]


class Source(Protocol):
    """Examples that can be picked by number."""

    @property
    def examples(self) -> int:
        """How many there are."""

    def pick(self, which: Tensor | slice) -> Any:
        """Some of them as one batch.

        Args:
            which: int64 numbers of examples, or a slice for those that lie side by side.
        """


@dataclass(frozen=True)
class Supply:
    """A source and how it is cut, whoever said so: the caller or a ``DataLoader``."""

    source: Source
    batch_size: int
    shuffle: bool
    drop_last: bool


class _Tensors:
    """Picked examples are copies, slices are views."""

    def __init__(self, tensors: tuple[Tensor, ...]) -> None:
        self._tensors = tensors
        self.examples = tensors[0].shape[0]

    def pick(self, which: Tensor | slice) -> tuple[Tensor, ...]:
        if isinstance(which, slice):
            return tuple(tensor[which] for tensor in self._tensors)
        return tuple(
            tensor.index_select(0, which.to(tensor.device, non_blocking=True))
            for tensor in self._tensors
        )


class _Arrays:
    """Batches of numpy arrays are tensors: views of writable arrays for slices, else copies."""

    def __init__(self, arrays: tuple[npt.NDArray[Any], ...]) -> None:
        self._arrays = tuple(np.asarray(array) for array in arrays)  # memory maps as plain arrays
        self.examples = arrays[0].shape[0]

    def pick(self, which: Tensor | slice) -> tuple[Tensor, ...]:
        key: Any = which if isinstance(which, slice) else which.numpy()
        return tuple(_tensor(array[key]) for array in self._arrays)


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """As a tensor: a view, unless torch has no such strides or could write to read-only memory."""
    is_view = array.flags.writeable and all(
        stride >= 0 and stride % array.itemsize == 0 for stride in array.strides
    )
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=not is_view))


@dataclass(frozen=True)
class _Single:
    """A source of one thing: its batches are no tuples."""

    source: _Tensors | _Arrays

    @property
    def examples(self) -> int:
        return self.source.examples

    def pick(self, which: Tensor | slice) -> Tensor:
        (batch,) = self.source.pick(which)
        return batch


@dataclass(frozen=True)
class _Examples:
    """A map-style dataset, read example by example and collated as a ``DataLoader`` does."""

    dataset: Any
    examples: int
    collate: Callable[[Any], Any]

    def pick(self, which: Tensor | slice) -> Any:
        numbers = range(self.examples)[which] if isinstance(which, slice) else which.tolist()
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is not None:
            return self.collate(fetch(list(numbers)))
        return self.collate([self.dataset[number] for number in numbers])


@dataclass(frozen=True)
class _Listed:
    """A ``TensorDataset`` under torch's own collation: the same lists, without the loop."""

    source: _Tensors

    @property
    def examples(self) -> int:
        return self.source.examples

    def pick(self, which: Tensor | slice) -> list[Tensor]:
        return list(self.source.pick(which))


def check_supply(
    data: Any, batch_size: Any, shuffle: bool | None, drop_last: bool | None
) -> Supply:
    """What ``Worker.batches`` reads, from the arguments of the same names.

    Raises:
        TypeError: ``data`` is of no kind that can be read by number.
        ValueError: data without examples along their first dimension or with unequal numbers of
            them; ``batch_size`` out of range; options that a ``DataLoader`` brings already.
    """
    if isinstance(data, DataLoader):
        return _from_loader(data, batch_size=batch_size, shuffle=shuffle, drop_last=drop_last)
    if isinstance(data, Dataset):
        source: Source = _from_dataset("data", data, default_collate)
    elif isinstance(data, tuple):
        source = _from_columns(data)
    else:
        _check_column("data", data, data, "a tensor or a tuple of tensors")
        column = (data,)
        source = _Single(_Tensors(column) if isinstance(data, Tensor) else _Arrays(column))
    return Supply(source, whole("batch_size", batch_size, 1), shuffle is not False, bool(drop_last))


def whole(name: str, value: Any, least: int) -> int:
    """``value`` as an int, if it is an integer of at least ``least``; else ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")
    return int(value)


def _from_columns(data: tuple[Any, ...]) -> Source:
    if not data:
        raise ValueError("data: expected a tensor or a tuple of tensors, got an empty tuple")
    arrays = isinstance(data[0], np.ndarray)
    for index, column in enumerate(data):
        name = f"data[{index}]"
        if not isinstance(column, np.ndarray if arrays else Tensor):
            raise _unfit(name, "a numpy array, as data[0] is" if arrays else "a tensor", column)
        _check_column(name, column, data[0], "")
    return _Arrays(data) if arrays else _Tensors(data)


def _check_column(name: str, column: Any, first: Any, expected: str) -> None:
    if isinstance(column, np.ndarray):
        try:
            _tensor(np.empty(0, column.dtype))
        except TypeError:
            raise TypeError(
                f"{name}: expected an array of a dtype that torch has, got {column.dtype}"
            ) from None
    elif not isinstance(column, Tensor):
        raise _unfit(name, expected, column)
    if column.ndim == 0:
        kind = "tensor" if isinstance(column, Tensor) else "array"
        raise ValueError(f"{name}: expected examples along dimension 0, got a scalar {kind}")
    if column.shape[0] != first.shape[0]:
        raise ValueError(
            f"{name}: expected {first.shape[0]} examples, as in data[0], got {column.shape[0]}"
        )


def _unfit(name: str, expected: str, got: Any) -> TypeError:
    return TypeError(
        f"{name}: expected {expected}, got {type(got).__name__}; "
        f"convert it, for instance with torch.as_tensor, or pass a torch Dataset"
    )


def _from_dataset(name: str, dataset: Any, collate: Callable[[Any], Any]) -> Source:
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{name}: expected a dataset whose examples are picked by number, got "
            f"{type(dataset).__name__}, an IterableDataset; use a map-style Dataset"
        )
    if type(dataset) is TensorDataset and collate is default_collate:
        return _Listed(_Tensors(dataset.tensors))
    try:
        examples = len(dataset)
    except TypeError:
        raise TypeError(
            f"{name}: expected a dataset with a length, got {type(dataset).__name__}; "
            f"define __len__ in it"
        ) from None
    return _Examples(dataset, examples, collate)


def _from_loader(loader: DataLoader[Any], **options: Any) -> Supply:
    """Take over what a loader would do itself, except for its own processes and random order."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f"{name}: expected nothing beside a DataLoader, which brings its own, got {value!r}"
            )
    source = _from_dataset("data.dataset", loader.dataset, loader.collate_fn)
    sampler = loader.sampler
    shuffle = type(sampler) is RandomSampler
    if type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None:
        raise ValueError(
            "data.batch_sampler: expected a DataLoader with a batch_size, got one with "
            f"{'its own batch_sampler' if loader.batch_sampler else 'batch_size=None'}; "
            f"pass its dataset and a batch_size"
        )
    if isinstance(sampler, RandomSampler) and (sampler.replacement or sampler._num_samples):
        raise ValueError(
            "data.sampler: expected each example once per epoch, got a RandomSampler with "
            "replacement or num_samples; pass the loader's dataset"
        )
    if not shuffle and type(sampler) is not SequentialSampler:
        raise ValueError(
            "data.sampler: expected shuffle=True or shuffle=False, got "
            f"{type(sampler).__name__}, whose order cannot be shared out; pass a "
            f"torch.utils.data.Subset of the dataset"
        )
    return Supply(source, loader.batch_size, shuffle, loader.drop_last)
