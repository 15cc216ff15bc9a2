"""Objects sent to worker processes and back: pickled, except for tensors and large arrays.

Tensors that are sent to workers are moved to shared memory, so parent and workers see each other's
writes, unless the payload is private: then each worker's writes stay its own. Numpy arrays are
copied there once for all workers; see :mod:`asyncopt.run.arrays`. The memory is passed by
descriptor: nothing is in /dev/shm, and the number of descriptors does not grow with the number of
tensors.

A payload is two pickles: a list of the parts in shared memory, and the object, which refers to them
by number.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from multiprocessing import context
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any

import numpy as np
import torch

from asyncopt.errors import SegmentError
from asyncopt.optim.base import Optimizer
from asyncopt.optim.reach import Trained, is_trained
from asyncopt.run.arrays import Copies, is_large, map_again
from asyncopt.run.definitions import DefinitionPickler, dumps
from asyncopt.run.mappings import FileMapping, Mappings
from asyncopt.run.private import PrivateMap, PrivateStorage
from asyncopt.store.memory import SharedStorage, lay_out, map_new_memfd
from asyncopt.store.moving import can_move, move, report_moves

__all__ = ["Payload", "dumps_reply", "find_trained", "load", "unpicklable"]

# A tensor of at least LARGE bytes and at least this SHARE of all bytes gets its own segment, which
# is freed with the tensor while others are still in use.
LARGE, SHARE = 1 << 20, 1 / 16

_dumping = threading.RLock()


class Payload:
    """The same objects for several processes, with their large parts in shared memory.

    Writes of the launching process to an array after the first process was started are not visible
    to workers.

    Args:
        name: name of the objects in messages.
        private: whether workers get private maps of tensors: those that workers write to are copied
            page by page, and neither this process nor other workers see it.
    """

    def __init__(self, name: str, *, private: bool = False) -> None:
        self._name = name
        self._private = private
        self._copies = Copies()

    def __reduce__(self) -> tuple[type[Payload], tuple[str]]:
        return Payload, (self._name,)  # a worker has no use for the copies as such

    def dump(self, item: object, file: IO[bytes]) -> None:
        """Pickle an object for a process that is being spawned.

        Raises:
            SegmentError: no room for its tensors and arrays; the message gives their bytes.
        """
        with _dumping:  # another thread may send the same tensors, which move once
            self._dump(item, file)

    def _dump(self, item: object, file: IO[bytes]) -> None:
        body = BytesIO()
        pickler = _Pickler(body, private=self._private)
        pickler.dump(item)
        storages = pickler.to_move
        arrays = [part for part in pickler.parts if isinstance(part, np.ndarray)]
        try:
            _move(storages)
            copies = iter(self._copies.of(arrays))
        except SegmentError as error:
            total = sum(part.nbytes() for part in storages) + sum(part.nbytes for part in arrays)
            raise SegmentError(
                f"{self._name}: expected room for tensors and arrays of {total:,} bytes in shared "
                f"memory; {error}"
            ) from error
        parts: list[Any] = [next(copies) if isinstance(p, np.ndarray) else p for p in pickler.parts]
        if self._private:
            parts = _make_private(parts)
        ForkingPickler(file).dump(parts)
        file.write(body.getbuffer())


def dumps_reply(item: object) -> bytes:
    """Pickle a reply to the process that sent this one its work; tensors go by value.

    It contains no descriptor, so it stays valid after this process ends.
    """
    return pickle.dumps([]) + dumps(item)


def load(file: IO[bytes]) -> Any:
    """Unpickle what ``Payload.dump`` or ``dumps_reply`` has written."""
    parts = pickle.load(file)
    return _Unpickler(file, parts).load()


def find_trained(parts: Mapping[str, object]) -> Trained:
    """Optimizers, modules and schedulers that pickling ``parts`` for a process would reach.

    Nothing is sent, and tensors and arrays are neither read nor moved.
    """
    scout = _Scout()
    with _dumping, _no_child():
        scout.dump(tuple(parts.values()))
    return Trained.among(scout.found)


def unpicklable(parts: Mapping[str, object]) -> tuple[str, object] | None:
    """Name and value of the first of ``parts`` that cannot be pickled; None if all can."""
    with _no_child():
        for name, part in parts.items():
            try:
                _Scout().dump(part)
            except Exception:
                return name, part
    return None


def _make_private(parts: Sequence[Any]) -> list[Any]:
    """Parts, with storages in shared memory replaced by objects that unpickle as private maps."""
    maps: dict[int, PrivateMap] = {}  # by identity of the memory; each is mapped once

    def private(storage: torch.UntypedStorage) -> PrivateStorage:
        if isinstance(storage, SharedStorage):
            memory, offset = storage.memory, storage.offset
        else:  # shared by torch itself
            memory = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage)
            offset = 0
        shared = maps.setdefault(id(memory), PrivateMap(memory))
        return PrivateStorage(shared, offset, storage.nbytes())

    return [private(part) if isinstance(part, torch.UntypedStorage) else part for part in parts]


def _move(storages: Sequence[torch.UntypedStorage]) -> None:
    """Move storages to shared memory.

    Each segment is filled, and the old memory of its parts freed, before the next is allocated.
    """
    if not can_move():
        return  # torch moves each to a file of its own
    total = sum(storage.nbytes() for storage in storages)
    is_alone = [s.nbytes() >= max(LARGE, SHARE * total) for s in storages]
    groups = [[storage] for storage, alone in zip(storages, is_alone, strict=True) if alone]
    groups.append([storage for storage, alone in zip(storages, is_alone, strict=True) if not alone])
    for group in groups:
        offsets, nbytes = lay_out(storage.nbytes() for storage in group)
        if nbytes:
            memory = map_new_memfd(nbytes)
            try:
                for storage, offset in zip(group, offsets, strict=True):
                    move(storage, memory, offset)
            finally:
                report_moves()


class _Pickler(DefinitionPickler):
    """Pickler that sets large parts aside.

    Attributes:
        parts: storages and arrays, in the order of the numbers that stand for them.
        to_move: those storages that are not in shared memory yet.
    """

    def __init__(self, file: IO[bytes], *, private: bool = False) -> None:
        reducers: dict[type, Callable[[Any], Any]] = ForkingPickler._extra_reducers  # type: ignore[attr-defined]
        # Set before the base class's __init__, which reads it.
        self.dispatch_table = ChainMap(reducers, DefinitionPickler.dispatch_table)
        super().__init__(file, replies=False)
        self.parts: list[torch.UntypedStorage | np.ndarray[Any, Any]] = []
        self._private = private
        self.to_move: list[torch.UntypedStorage] = []
        self._mappings = Mappings()

    def reducer_override(self, item: object) -> Any:
        if isinstance(item, np.ndarray):
            if (mapped := map_again(item, self._mappings)) is not None:
                return mapped
            return self._set_aside(item) if is_large(item) else NotImplemented
        if isinstance(item, torch.UntypedStorage):
            return self._storage(item)
        if type(item) in (torch.Tensor, torch.nn.Parameter):
            return _without_bits(item)
        return super().reducer_override(item)

    def _storage(self, storage: torch.UntypedStorage) -> Any:
        if storage.device.type != "cpu" or storage.nbytes() == 0:
            return NotImplemented
        if storage.is_shared():
            file = self._mappings.at(storage.data_ptr())
            if storage.filename is not None:
                how = _path(storage, file), not self._private, storage.nbytes()
                return torch.UntypedStorage.from_file, how
            if file is None or file.is_shared:  # there is a descriptor for it
                return self._set_aside(storage) if self._private else NotImplemented
        self.to_move.append(storage)
        return self._set_aside(storage)

    def _set_aside(self, part: Any) -> Any:
        self.parts.append(part)
        return _part, (len(self.parts) - 1,)


def _path(storage: torch.UntypedStorage, file: FileMapping | None) -> str:
    """Path of the file that a storage shares with workers.

    Raises:
        ValueError: the file was deleted, replaced or truncated.
    """
    path = None if file is None else file.path
    if path is None or os.path.getsize(path) < storage.nbytes():
        raise ValueError(
            f"torch.from_file: expected a file of {storage.nbytes():,} bytes or more that workers "
            f"can open and write to, got one that was deleted, replaced or cut, "
            f"{storage.filename}; map it again, or pass a clone of the tensor"
        )
    return path


class _Scout(_Pickler):
    """Pickler that writes nothing, and lists the objects that training changes.

    Attributes:
        found: optimizers, modules and schedulers, in the order in which pickle reaches them.
    """

    def __init__(self) -> None:
        super().__init__(_Nowhere())  # type: ignore[arg-type]  # pickle needs no more of a file
        self.found: list[Any] = []

    def reducer_override(self, item: object) -> Any:
        if is_trained(item):
            self.found.append(item)
            if isinstance(item, Optimizer):  # its own reduction writes to its store
                return _part, (item.param_groups, dict(item.state))
        elif isinstance(item, torch.Tensor) and item.is_cuda and item.is_leaf:
            return self._set_aside(item)  # torch would keep its memory until a process receives it
        return super().reducer_override(item)

    def _storage(self, storage: torch.UntypedStorage) -> Any:
        if storage.device.type == "cpu" and storage.is_shared() and storage.filename is not None:
            return super()._storage(storage)  # which looks for the file
        return self._set_aside(storage)


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


class _NoChild:
    """Stand-in for a process that is being spawned; descriptors are not duplicated for it."""

    DupFd = int

    def duplicate_for_child(self, fd: int) -> int:
        return fd


@contextlib.contextmanager
def _no_child() -> Iterator[None]:
    """Context in which objects are pickled as for a process that is being spawned."""
    before = context.get_spawning_popen()
    context.set_spawning_popen(_NoChild())  # type: ignore[arg-type]  # all that reducers need
    try:
        yield
    finally:
        context.set_spawning_popen(before)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], parts: Sequence[Any]) -> None:
        super().__init__(file)
        self._parts = parts

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (__name__, _part.__name__):
            return self._parts.__getitem__
        return super().find_class(module, name)


def _part(number: int) -> Any:
    """Placeholder in a pickle for a part that was set aside; the unpickler replaces it."""
    raise pickle.UnpicklingError(f"part {number} can be read by asyncopt.run.payload.load only")


def _without_bits(tensor: Any) -> Any:
    """The reduction of a lazily conjugated or negated tensor; torch's reducer drops these bits."""
    if tensor.layout is not torch.strided or not (tensor.is_conj() or tensor.is_neg()):
        return NotImplemented
    if tensor.requires_grad and not tensor.is_leaf:
        return NotImplemented  # torch refuses it
    bits = tensor.is_conj(), tensor.is_neg()
    return _with_bits, (type(tensor), _turn(tensor.detach(), *bits), *bits, tensor.requires_grad)


def _turn(tensor: torch.Tensor, conj: bool, neg: bool) -> torch.Tensor:
    tensor = tensor.conj() if conj else tensor
    return tensor._neg_view() if neg else tensor


def _with_bits(
    kind: type[torch.Tensor], tensor: torch.Tensor, conj: bool, neg: bool, requires_grad: bool
) -> torch.Tensor:
    tensor = _turn(tensor, conj, neg)
    if kind is torch.nn.Parameter:
        return torch.nn.Parameter(tensor, requires_grad)
    return tensor.requires_grad_(requires_grad)
