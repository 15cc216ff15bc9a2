"""Splits: the examples of each fold to train on and to hold out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

__all__ = ["Split", "Splits", "Splitter", "find_targets", "make_splits"]

MOST_SEED = 2**32 - 1  # of numpy.random.RandomState


class Splitter(Protocol):
    """Interface of scikit-learn's splitters: ``KFold``, ``StratifiedKFold``, ``GroupKFold``."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterable[tuple[Any, Any]]:
        """Pairs of index arrays: to train on, and held out."""


class Split(NamedTuple):
    """int64 numbers of examples, in the order that the splitter gave."""

    train: Tensor
    test: Tensor


class Splits:
    """All splits in one tensor, so that any number of them takes one descriptor to share."""

    def __init__(self, splits: list[Split]) -> None:
        parts = [part for split in splits for part in split]
        self._numbers = torch.cat(parts)
        self._sizes = [len(part) for part in parts]

    def __len__(self) -> int:
        return len(self._sizes) // 2

    def __getitem__(self, fold: int) -> Split:
        start = sum(self._sizes[: 2 * fold])
        middle = start + self._sizes[2 * fold]
        end = middle + self._sizes[2 * fold + 1]
        return Split(self._numbers[start:middle], self._numbers[middle:end])

    def fingerprint(self) -> str:
        """SHA-256 of all numbers, in hexadecimal."""
        sizes = np.asarray(self._sizes, dtype=np.int64)
        return hashlib.sha256(sizes.tobytes() + self._numbers.numpy().tobytes()).hexdigest()


def find_targets(data: Any) -> Any:
    """The targets of all examples, as far as they are in memory.

    Args:
        data: a tuple whose last column they are; or a dataset that is a ``TensorDataset``, has an
            attribute ``targets``, or is a ``Subset`` or ``ConcatDataset`` of such.

    Returns:
        An array or tensor of as many targets as there are examples; None if they are not known.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    if isinstance(data, tuple):
        return data[-1]
    if isinstance(data, Subset):
        inner = find_targets(data.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(data.indices)]
    if isinstance(data, ConcatDataset):
        parts = [find_targets(part) for part in data.datasets]
        known = all(part is not None for part in parts)
        return np.concatenate([np.asarray(part) for part in parts]) if known else None
    return getattr(data, "targets", None)


def make_splits(
    folds: int | Splitter | Iterable[tuple[Any, Any]],
    examples: int,
    targets: Any,
    groups: Any,
    seed: int,
) -> Splits:
    """Splits according to ``folds``.

    Args:
        folds: how many, for a shuffled k-fold; or a splitter; or the splits themselves.
        examples: number of examples.
        targets: for splitters that look at them; None: there are none.
        groups: of length ``examples``, for splitters that keep groups together; else None.
        seed: of the shuffle.

    Raises:
        TypeError, ValueError: naming ``folds``, ``groups`` or ``seed``.
    """
    if groups is not None and len(groups) != examples:
        raise ValueError(f"groups: expected {examples} of them, one per example, got {len(groups)}")
    if isinstance(folds, int) and not isinstance(folds, bool):
        if groups is not None:
            raise ValueError(
                "groups: expected a splitter that looks at them as folds=, got a number; "
                "pass folds=sklearn.model_selection.GroupKFold(n)"
            )
        pairs = _k_fold(examples, folds, seed)
    elif hasattr(folds, "split") and not isinstance(folds, str):
        pairs = _split(folds, examples, targets, groups)
    elif isinstance(folds, Iterable) and not isinstance(folds, str):
        pairs = folds
    else:
        raise TypeError(
            f"folds: expected a number, a splitter or pairs of indices, got {type(folds).__name__}"
        )
    splits = [_check(number, pair, examples) for number, pair in enumerate(pairs)]
    if not splits:
        raise ValueError("folds: expected at least one split, got none")
    return Splits(splits)


def _split(folds: Any, examples: int, targets: Any, groups: Any) -> Iterable[tuple[Any, Any]]:
    if targets is not None and len(targets) != examples:
        raise ValueError(
            f"data.targets: expected {examples} of them, one per example, got {len(targets)}"
        )
    try:
        return list(folds.split(np.zeros(examples), targets, groups))
    except (TypeError, ValueError) as error:
        if targets is not None:
            raise
        raise ValueError(
            f"folds: expected a splitter that needs no targets, as the dataset shows none, got "
            f"{type(folds).__name__} ({error}); give the dataset an attribute targets, one per "
            f"example, or pass a tuple (inputs, targets)"
        ) from error


def _k_fold(examples: int, folds: int, seed: int) -> Iterable[tuple[Any, Any]]:
    """Scikit-learn's ``KFold(folds, shuffle=True, random_state=seed)``, to the last index."""
    if not 2 <= folds <= examples:
        raise ValueError(f"folds: expected 2 to {examples}, the number of examples, got {folds}")
    if seed > MOST_SEED:
        raise ValueError(
            f"seed: expected at most {MOST_SEED} where folds is a number, as scikit-learn's KFold "
            f"takes no larger one, got {seed}; pass a splitter or pairs of indices as folds"
        )
    order = np.arange(examples)
    np.random.RandomState(seed).shuffle(order)
    for held_out in np.array_split(order, folds):
        test = np.zeros(examples, dtype=bool)
        test[held_out] = True
        yield np.flatnonzero(~test), np.flatnonzero(test)


def _check(number: int, pair: Any, examples: int) -> Split:
    try:
        train, test = pair
    except (TypeError, ValueError):
        raise TypeError(
            f"folds[{number}]: expected a pair of index arrays (train, test), got {pair!r}"
        ) from None
    return Split(
        _indices(f"folds[{number}][0]", train, examples),
        _indices(f"folds[{number}][1]", test, examples),
    )


def _indices(name: str, indices: Any, examples: int) -> Tensor:
    array = np.asarray(indices)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        raise TypeError(
            f"{name}: expected a vector of integers, got shape {array.shape} of {array.dtype}"
        )
    if len(array) == 0 or array.min() < 0 or array.max() >= examples:
        what = f"{array.min()} to {array.max()}" if len(array) else "none"
        raise ValueError(f"{name}: expected indices from 0 to {examples - 1}, got {what}")
    return torch.from_numpy(array.astype(np.int64))
