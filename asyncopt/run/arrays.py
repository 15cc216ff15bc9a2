"""Transfer of numpy arrays to worker processes: one copy in shared memory for all workers.

Each worker maps the copy privately (copy-on-write), so its writes stay its own, as with pickling.
Memory maps are mapped again from their file if the file has the same contents as the map;
otherwise they are copied like other arrays.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncopt.run.mappings import Mappings
from asyncopt.run.private import PrivateMap
from asyncopt.store.memory import lay_out, map_new_memfd

__all__ = ["Copies", "is_large", "map_again"]

# Arrays of fewer bytes are pickled.
LARGE = 1 << 16

_Array = npt.NDArray[Any]


def map_again(array: _Array, mappings: Mappings) -> tuple[Any, ...] | None:
    """Pickle reduction that maps a memory-mapped array again in the receiver; None: copy the array.

    An array is copied if it is not a memory map, if its file was deleted or replaced, or if this
    process has written to pages of a map with mode "c".

    Args:
        array: any array.
        mappings: of this process.

    Raises:
        ValueError: the file is shorter than the map; or the map is writable (mode "r+" or "w+")
            and its file was deleted, replaced or has no name, so writes could not be shared.
    """
    mapping = _mapping(array) if _is_plain(array) else None
    if mapping is None:
        return None
    first, last = _ends(array)
    _check_length(mapping, last)
    file = mappings.at(first)
    path = None if file is None or mapping.filename is None else file.path
    if path is None and mapping.mode in ("r+", "w+"):
        raise ValueError(
            f"memory map: expected a file that workers can open and write to, got one that was "
            f"deleted or replaced, {mapping.filename or 'without a name'}; map a file by its name, "
            f"or pass a copy of the array"
        )
    if path is None or (mapping.mode == "c" and mappings.is_written(first, last)):
        return None
    return _map_again, (path, *_place(array, mapping))


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
                copy = _Copy(private, offset, array.dtype, array.shape, _order(array), np.ndarray)
                np.copyto(copy.view(memory.numpy()), array)
                self._copies[key] = array, copy
        return [replace(self._copies[_key(array)][1], kind=type(array)) for array in arrays]


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
    kind: type[_Array]

    def view(self, memory: Any) -> _Array:
        return np.ndarray(self.shape, self.dtype, memory, self.offset, order=self.order)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self.private, self.offset, self.dtype, self.shape, self.order, self.kind
        return _open, parts


def _open(
    memory: mmap.mmap,
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    order: Any,
    kind: type[_Array],
) -> _Array:
    array = np.ndarray(shape, dtype, memory, offset, order=order)
    return array if kind is np.ndarray else array.view(kind)


def _mapping(array: _Array) -> np.memmap[Any, Any] | None:
    """The memory map that an array is a view of; None if there is none."""
    base: Any = array
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap) and getattr(base, "_mmap", None) is not None:
            return base
        base = base.base
    return None


def _ends(array: _Array) -> tuple[int, int]:
    """The addresses of an array's first and last byte."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return low, high - 1


def _offset(address: int, mapping: np.memmap[Any, Any]) -> int:
    """File offset of the byte at an address of its map."""
    start = np.frombuffer(mapping._mmap, np.uint8).__array_interface__["data"][0]  # type: ignore[attr-defined]
    begin = mapping.offset - mapping.offset % mmap.ALLOCATIONGRANULARITY
    return int(begin + address - start)


def _check_length(mapping: np.memmap[Any, Any], last: int) -> None:
    """Raise ValueError if a file has been cut short: reading on would end the process (SIGBUS)."""
    expected, got = _offset(last, mapping) + 1, mapping._mmap.size()  # type: ignore[attr-defined]
    if got < expected:
        raise ValueError(
            f"memory map: expected a file of {expected:,} bytes or more, as when it was mapped, "
            f"got {got:,} bytes, {mapping.filename or 'without a name'}; map it again"
        )


def _place(array: _Array, mapping: np.memmap[Any, Any]) -> tuple[Any, ...]:
    """File offset, shape and strides of an array in a map."""
    low, last = _ends(array)
    first = array.__array_interface__["data"][0] - low  # above 0 if a stride is negative
    mode = "r+" if mapping.mode == "w+" else mapping.mode
    span = mode, _offset(low, mapping), last + 1 - low
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
