"""Map-style datasets, read example by example and collated as a ``DataLoader`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from asyncopt.run.columns import Source, Tensors, check_layout

__all__ = ["Examples", "Unbatched", "check_map_style", "from_dataset", "length"]


@dataclass(frozen=True)
class Examples:
    """Examples of a dataset, read one by one or in one call of ``__getitems__``."""

    dataset: Any
    examples: int
    collate: Callable[[Any], Any]

    def pick(self, which: Tensor | slice | list[Any]) -> Any:
        """A collated batch.

        Args:
            which: numbers, a slice, or a list of other keys drawn by a sampler.
        """
        if isinstance(which, slice):
            wanted = list(range(self.examples)[which])
        else:
            wanted = which.tolist() if isinstance(which, Tensor) else which
        fetch = getattr(self.dataset, "__getitems__", None)
        if fetch is not None:
            return self.collate(fetch(wanted))
        return self.collate([self.dataset[each] for each in wanted])


@dataclass(frozen=True)
class _Listed:
    """A ``TensorDataset`` with torch's default collation: same batches, no Python loop."""

    loop: Examples
    tensors: Tensors

    @property
    def examples(self) -> int:
        return self.tensors.examples

    def pick(self, which: Tensor | slice | list[Any]) -> Any:
        if not isinstance(which, Tensor | slice):
            return self.loop.pick(which)
        try:
            return self.tensors.pick(which)
        except IndexError:  # a sampler drew negative or out-of-range numbers
            return self.loop.pick(which)


@dataclass(frozen=True)
class Unbatched:
    """The dataset of a loader with ``batch_size=None``: each batch is the item of one key."""

    dataset: Any
    examples: int
    convert: Callable[[Any], Any]

    def pick(self, which: Any) -> Any:
        """The converted item of a key."""
        return self.convert(self.dataset[which])


def from_dataset(
    name: str, dataset: Any, collate: Callable[[Any], Any], *, has_sampler: bool = False
) -> Source:
    """The source of a dataset.

    Args:
        name: of the dataset in messages.
        dataset: map-style.
        collate: makes a batch of a list of examples.
        has_sampler: whether a sampler draws the keys; the dataset then needs no length.

    Raises:
        TypeError: it has no length, or no examples that can be picked by number.
    """
    check_map_style(name, dataset)
    examples = length(dataset)
    if examples is None and not has_sampler:
        raise TypeError(
            f"{name}: expected a dataset with a length, got {type(dataset).__name__}; "
            f"define __len__ in it"
        )
    loop = Examples(dataset, examples or 0, collate)
    if type(dataset) is not TensorDataset or collate is not default_collate:
        return loop
    for index, tensor in enumerate(dataset.tensors):
        check_layout(f"{name}.tensors[{index}]", tensor)
    return _Listed(loop, Tensors(dataset.tensors, list))


def check_map_style(name: str, dataset: Any) -> None:
    """Raise TypeError for a dataset whose examples have no numbers."""
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"{name}: expected a dataset whose examples are picked by number, got "
            f"{type(dataset).__name__}, an IterableDataset; use a map-style Dataset, or iterate "
            f"over every world_size-th example in fn, with worker.pull() before and worker.push() "
            f"after each step"
        )


def length(sized: Any) -> int | None:
    """The length of a dataset or a sampler; None if it has none."""
    try:
        return len(sized)
    except (TypeError, NotImplementedError):
        return None
