"""Numpy arrays on their way to worker processes: one copy in memory for all of them.

Each worker still has an array of its own, as if it had been pickled: the pages are shared until a
worker writes to them (a private mapping). Memory maps are mapped again from their file.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import torch

from asyncopt.store.memory import map_new_memfd

__all__ = ["SharedArrays"]

# Arrays of fewer bytes are pickled: a shared one costs each worker a descriptor and a page.
LARGE = 1 << 16

_Array = npt.NDArray[Any]


class SharedArrays:
    """The large arrays of a run's arguments, wherever in them they are.

    Each is copied to shared memory when it is first pickled, and stays there for workers that are
    started later; what the launching process writes to it from then on reaches no worker.
    """

    def __init__(self) -> None:
        self._copies: dict[int, tuple[_Array, torch.Tensor]] = {}  # by the array's id

    def pickler(self, file: IO[bytes]) -> reduction.ForkingPickler:
        """A pickler for one process that is being spawned."""
        return _Pickler(file, self)

    def __reduce__(self) -> tuple[type[SharedArrays], tuple[()]]:
        return SharedArrays, ()  # a worker has no use for the copies as such

    def reduce(self, array: _Array) -> Any:
        """What stands for the array in a pickle; NotImplemented leaves it to pickle."""
        if type(array) not in (np.ndarray, np.memmap) or array.dtype.hasobject or not array.nbytes:
            return NotImplemented
        mapping = _mapping(array)
        if mapping is not None:
            return _map_again, _place(array, mapping)
        if array.nbytes < LARGE:
            return NotImplemented
        if id(array) not in self._copies:
            self._copies[id(array)] = (array, _copy(array))
        memory = self._copies[id(array)][1]
        descriptor = memory.untyped_storage()._share_fd_cpu_()[0]
        return _open, (reduction.DupFd(descriptor), array.dtype, array.shape, _order(array))


class _Pickler(reduction.ForkingPickler):
    def __init__(self, file: IO[bytes], arrays: SharedArrays) -> None:
        super().__init__(file)
        self._arrays = arrays

    def reducer_override(self, item: object) -> Any:
        return self._arrays.reduce(item) if isinstance(item, np.ndarray) else NotImplemented


def _order(array: _Array) -> Any:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _copy(array: _Array) -> torch.Tensor:
    memory = map_new_memfd(array.nbytes)
    view: _Array = np.ndarray(array.shape, array.dtype, memory.numpy(), order=_order(array))
    np.copyto(view, array)
    return memory


def _open(descriptor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> _Array:
    fd = descriptor.detach()
    try:
        memory = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE)
    finally:
        os.close(fd)
    return np.ndarray(shape, dtype, memory, order=order)


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
