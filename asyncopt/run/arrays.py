"""Numpy arrays on their way to worker processes: one copy in memory for all of them.

Each worker still has an array of its own, as if it had been pickled: the pages are shared until a
worker writes to them (a private mapping). Memory maps are mapped again from their file.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt.run.private import PrivateMap
from asyncopt.store.memory import lay_out, map_new_memfd

__all__ = ["Copies", "is_large", "map_again"]

# Arrays of fewer bytes are pickled.
LARGE = 1 << 16

_Array = npt.NDArray[Any]


def map_again(array: _Array) -> tuple[Any, ...] | None:
    """The pickle reduction that maps a mapped array again elsewhere; None for other arrays."""
    if not _is_plain(array):
        return None
    mapping = _mapping(array)
    return None if mapping is None else (_map_again, _place(array, mapping))


def is_large(array: _Array) -> bool:
    """True if an array is copied to shared memory instead of into the pickle."""
    return _is_plain(array) and array.nbytes >= LARGE


def _is_plain(array: _Array) -> bool:
    return type(array) in (np.ndarray, np.memmap) and not array.dtype.hasobject and array.nbytes > 0


class Copies:
    """Copies of arrays in shared memory, each made once.

    Arrays are identified by their memory, because an object may create new arrays over the same
    memory each time it is pickled.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[Any, ...], tuple[_Array, _Copy]] = {}

    def of(self, arrays: Sequence[_Array]) -> list[_Copy]:
        """The copies of arrays, which pickle as arrays; missing ones are made in one new segment.

        Raises:
            SegmentError: there is no room for them.
        """
        missing = {_key(array): array for array in arrays if _key(array) not in self._copies}
        if missing:
            offsets, nbytes = lay_out(array.nbytes for array in missing.values())
            memory = map_new_memfd(nbytes)
            private = PrivateMap(memory)
            for (key, array), offset in zip(missing.items(), offsets, strict=True):
                copy = _Copy(private, offset, array.dtype, array.shape, _order(array))
                np.copyto(copy.view(memory.numpy()), array)
                self._copies[key] = array, copy
        return [self._copies[_key(array)][1] for array in arrays]


def _key(array: _Array) -> tuple[Any, ...]:
    return array.__array_interface__["data"][0], array.dtype.str, array.shape, array.strides


def _order(array: _Array) -> Any:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


@dataclass(frozen=True)
class _Copy:
    """A copy of an array, which unpickles as a view of a private map."""

    private: PrivateMap
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Any

    def view(self, memory: Any) -> _Array:
        return np.ndarray(self.shape, self.dtype, memory, self.offset, order=self.order)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.private, self.offset, self.dtype, self.shape, self.order)


def _open(
    memory: mmap.mmap, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> _Array:
    return np.ndarray(shape, dtype, memory, offset, order=order)


def _mapping(array: _Array) -> np.memmap[Any, Any] | None:
    """The file's map whose memory an array shows, if it has a name to map it again by."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and getattr(base, "_mmap", None) is not None:
            return base if base.filename is not None else None
        base = base.base
    return None


def _place(array: _Array, mapping: np.memmap[Any, Any]) -> tuple[Any, ...]:
    """Where in the file an array's elements lie; changes to a "c" map stay in this process."""
    low, high = np.lib.array_utils.byte_bounds(array)
    start = np.frombuffer(mapping._mmap, np.uint8).__array_interface__["data"][0]  # type: ignore[attr-defined]
    offset = mapping.offset - mapping.offset % mmap.ALLOCATIONGRANULARITY + low - start
    first = array.__array_interface__["data"][0] - low  # above 0 if a stride is negative
    mode = "r+" if mapping.mode == "w+" else mapping.mode
    span = os.fspath(mapping.filename), mode, offset, high - low  # type: ignore[arg-type]
    return (*span, first, type(array), array.dtype, array.shape, array.strides)


def _map_again(
    path: str,
    mode: Any,
    offset: int,
    nbytes: int,
    first: int,
    kind: type[_Array],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> _Array:
    memory = np.memmap(path, np.uint8, mode, offset, (nbytes,))
    one = memory[first : first + dtype.itemsize].view(dtype)
    array = np.lib.stride_tricks.as_strided(one, shape, strides, subok=True)
    return array if kind is np.memmap else np.asarray(array)
