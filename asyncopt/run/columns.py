"""Examples along dimension 0 of tensors, numpy arrays and memory maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Arrays", "Single", "Source", "Tensors", "check_layout", "from_columns"]


class Source(Protocol):
    """Examples that can be picked by number."""

    @property
    def examples(self) -> int:
        """Number of examples."""

    def pick(self, which: Any) -> Any:
        """Some of them as one batch.

        Args:
            which: int64 numbers of examples, or a slice of contiguous ones.
        """


def from_columns(data: Any) -> Source:
    """The source of a tensor or an array, or of a tuple of equally long ones.

    Raises:
        TypeError: ``data`` has another type, or a layout or dtype that is not supported.
        ValueError: there are no examples along dimension 0, or unequal numbers of them.
    """
    if not isinstance(data, tuple):
        _check_column("data", data, data, "a tensor or a tuple of tensors")
        return Single(Tensors((data,)) if isinstance(data, Tensor) else Arrays((data,)))
    if not data:
        raise ValueError("data: expected a tensor or a tuple of tensors, got an empty tuple")
    arrays = isinstance(data[0], np.ndarray)
    for index, column in enumerate(data):
        name = f"data[{index}]"
        if not isinstance(column, np.ndarray if arrays else Tensor):
            raise _unfit(name, "a numpy array, as data[0] is" if arrays else "a tensor", column)
        _check_column(name, column, data[0], "")
    make = getattr(type(data), "_make", tuple)  # batches of a NamedTuple are such NamedTuples
    return Arrays(data, make) if arrays else Tensors(data, make)


class Tensors:
    """Picked examples are copies; slices of dense tensors are views."""

    def __init__(self, tensors: tuple[Tensor, ...], make: Callable[[Any], Any] = tuple) -> None:
        self._columns = tuple((_ROWS[tensor.layout], tensor) for tensor in tensors)
        self._make = make
        self.examples = _length(tensors[0])

    def pick(self, which: Tensor | slice) -> Any:
        """A batch of all columns."""
        return self._make([rows(tensor, which) for rows, tensor in self._columns])


def _dense_rows(tensor: Tensor, which: Tensor | slice) -> Tensor:
    if isinstance(which, slice):
        return tensor[which]
    return tensor.index_select(0, which.to(tensor.device, non_blocking=True))


def _coo_rows(tensor: Tensor, which: Tensor | slice) -> Tensor:
    return tensor.index_select(0, _numbers(which, tensor))


def _csr_rows(tensor: Tensor, which: Tensor | slice) -> Tensor:
    ends, inside = _ragged(tensor.crow_indices(), _numbers(which, tensor))
    shape = (len(ends) - 1, *tensor.shape[1:])
    columns, values = tensor.col_indices()[inside], tensor.values()[inside]
    return torch.sparse_csr_tensor(ends, columns, values, shape)


def _jagged_rows(tensor: Any, which: Tensor | slice) -> Tensor:
    ends, inside = _ragged(tensor.offsets(), _numbers(which, tensor))
    return torch.nested.nested_tensor_from_jagged(tensor.values()[inside], offsets=ends)


def _numbers(which: Tensor | slice, tensor: Tensor) -> Tensor:
    if isinstance(which, slice):
        which = torch.arange(which.start, which.stop)
    return which.to(tensor.device, non_blocking=True)


def _ragged(ends: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of selected ragged rows, and the indices of their elements.

    Args:
        ends: offsets of the rows in all elements, as in CSR; shape (rows + 1,).
        which: numbers of rows.
    """
    begin = ends[which]
    size = ends[which + 1] - begin
    new = torch.cat([size.new_zeros(1), size.cumsum(0, dtype=ends.dtype)])
    shift = torch.repeat_interleave(begin - new[:-1], size)
    return new, shift + torch.arange(len(shift), device=ends.device)


#: Function that picks rows, by layout.
_ROWS: dict[torch.layout, Callable[[Any, Tensor | slice], Tensor]] = {
    torch.strided: _dense_rows,
    torch.sparse_coo: _coo_rows,
    torch.sparse_csr: _csr_rows,
    torch.jagged: _jagged_rows,
}


def _length(column: Any) -> int:
    return int(column.size(0) if isinstance(column, Tensor) else column.shape[0])


class Arrays:
    """Batches of numpy arrays are tensors: views of writable arrays for slices, else copies."""

    def __init__(
        self, arrays: tuple[npt.NDArray[Any], ...], make: Callable[[Any], Any] = tuple
    ) -> None:
        self._arrays = tuple(np.asarray(array) for array in arrays)  # memory maps as plain arrays
        self._make = make
        self.examples = _length(arrays[0])

    def pick(self, which: Tensor | slice) -> Any:
        """A batch of all columns."""
        key: Any = which if isinstance(which, slice) else which.numpy()
        return self._make([_tensor(array[key]) for array in self._arrays])


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    """The array as a tensor; a copy if torch lacks such strides or memory is read-only."""
    is_view = array.flags.writeable and all(
        stride >= 0 and stride % array.itemsize == 0 for stride in array.strides
    )
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=not is_view))


@dataclass(frozen=True)
class Single:
    """A source of a single tensor or array: its batches are tensors, not tuples."""

    source: Tensors | Arrays

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.source.examples

    def pick(self, which: Tensor | slice) -> Tensor:
        """A batch."""
        (batch,) = self.source.pick(which)
        return batch  # type: ignore[no-any-return]


def _check_column(name: str, column: Any, first: Any, expected: str) -> None:
    if isinstance(column, np.ndarray):
        try:
            _tensor(np.empty(0, column.dtype))
        except TypeError:
            raise TypeError(
                f"{name}: expected an array of a dtype that torch has, got {column.dtype}"
            ) from None
    elif isinstance(column, Tensor):
        check_layout(name, column)
    else:
        raise _unfit(name, expected, column)
    if column.ndim == 0:
        kind = "tensor" if isinstance(column, Tensor) else "array"
        raise ValueError(f"{name}: expected examples along dimension 0, got a scalar {kind}")
    if _length(column) != _length(first):
        raise ValueError(
            f"{name}: expected {_length(first)} examples, as in data[0], got {_length(column)}"
        )


def check_layout(name: str, tensor: Any) -> None:
    """Raise TypeError for a tensor whose rows cannot be picked."""
    if tensor.is_nested and tensor.layout is not torch.jagged:
        got, remedy = "a nested one of layout torch.strided", "make it with layout=torch.jagged"
    elif tensor.is_nested and (not tensor.is_contiguous() or tensor.lengths() is not None):
        got, remedy = "a jagged one with gaps or transposed", "call .contiguous()"
    elif tensor.layout is torch.sparse_csr and tensor.ndim != 2:
        got, remedy = f"a CSR one of {tensor.ndim} dimensions", "make it of 2 dimensions"
    elif tensor.layout not in _ROWS:
        got, remedy = f"one of layout {tensor.layout}", "call .to_sparse_csr()"
    else:
        return
    raise TypeError(f"{name}: expected a dense, CSR, COO or jagged tensor, got {got}; {remedy}")


def _unfit(name: str, expected: str, got: Any) -> TypeError:
    return TypeError(
        f"{name}: expected {expected}, got {type(got).__name__}; "
        f"convert it, for instance with torch.as_tensor, or pass a torch Dataset"
    )
