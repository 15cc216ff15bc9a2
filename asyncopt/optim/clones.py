"""Copies of objects for worker threads: each thread's own model and optimizer, all else shared."""

from __future__ import annotations

import copy
import functools
import types
from collections import defaultdict, deque
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from asyncopt.optim.reach import BARE, attributes, parts, reached
from asyncopt.optim.sharing import alias

__all__ = ["thread_clone"]

_PRIVATE = (nn.Module, nn.Parameter, LRScheduler)


def thread_clone(objs: tuple[Any, ...], /) -> tuple[Any, ...]:
    """Copies of models and optimizers for one worker thread.

    Parameters of the copies are tensors of their own, with their own ``.grad``, over the same
    memory (a private copy under a sync with replicas). Buffers are the same tensors. Objects that
    hold a model or an optimizer are copied as well, by ``copy.copy``: lists, tuples, dicts, objects
    with attributes, closures, bound methods and ``functools.partial``s. All else is the same.

    Args:
        objs: the arguments of a worker function; optimizers of this package among them must be
            shared.

    Returns:
        The arguments for one thread.

    Raises:
        TypeError: `objs` is no tuple, or holds a model or an optimizer in an object that cannot be
            copied.
    """
    if not isinstance(objs, list | tuple):
        raise TypeError(
            f"objs: expected a tuple, got {type(objs).__name__}; for one object write (object,)"
        )
    memo: dict[int, Any] = {}
    for obj in reached(objs):
        if hasattr(type(obj), "_for_thread"):
            memo[id(obj)] = obj._for_thread(memo)
    clones = _Clones(memo, _holders(objs, memo))
    return tuple(clones.of(obj) for obj in objs)


def _is_private(item: object) -> bool:
    return type(item) not in BARE and isinstance(item, _PRIVATE)


def _holders(root: object, memo: dict[int, Any]) -> set[int]:
    """Ids of the objects that hold, directly or not, an object that each thread copies."""
    holders: defaultdict[int, list[int]] = defaultdict(list)
    found = []
    for item in reached(root):
        for part in parts(item):
            holders[id(part)].append(id(item))
            if _is_private(part) or id(part) in memo:
                found.append(id(part))
    above: set[int] = set()
    while found:
        for holder in holders.pop(found.pop(), ()):
            above.add(holder)
            found.append(holder)
    return above


class _Clones:
    """Copies for one thread.

    Args:
        memo: copies by the ids of their originals.
        holders: ids of the objects that are copied because of what they hold.
    """

    def __init__(self, memo: dict[int, Any], holders: set[int]) -> None:
        self._memo = memo
        self._holders = holders

    def of(self, obj: Any) -> Any:
        """The thread's copy of an object, or the object itself where it has none."""
        memo = self._memo
        if id(obj) in memo:
            return memo[id(obj)]
        if isinstance(obj, nn.Parameter):
            return memo.setdefault(id(obj), alias(obj))
        if isinstance(obj, nn.Module):
            for param in obj.parameters():
                memo.setdefault(id(param), alias(param))
            for buffer in obj.buffers():
                memo.setdefault(id(buffer), buffer)
        if isinstance(obj, nn.Module | LRScheduler):
            return copy.deepcopy(obj, memo)
        return self._holder(obj) if id(obj) in self._holders else obj

    def _holder(self, obj: Any) -> Any:
        """A copy of an object that holds copies."""
        of = self.of
        if isinstance(obj, tuple | frozenset):
            made: Any = type(obj)
            return made(*map(of, obj)) if hasattr(obj, "_fields") else made(map(of, obj))
        if isinstance(obj, types.MethodType):
            return types.MethodType(of(obj.__func__), of(obj.__self__))
        if isinstance(obj, functools.partial):
            keywords = {name: of(value) for name, value in obj.keywords.items()}
            return type(obj)(of(obj.func), *map(of, obj.args), **keywords)
        clone: Any
        if isinstance(obj, types.FunctionType):
            clone = self._function(obj)
        else:
            clone = self._memo[id(obj)] = _shallow(obj)  # before its parts, which may hold it
        if isinstance(obj, types.CellType):
            clone.cell_contents = of(obj.cell_contents)
        elif isinstance(obj, dict):
            for key, value in dict.items(obj):
                dict.__setitem__(clone, key, of(value))
        elif isinstance(obj, list | set | deque):
            values = list(map(of, obj))
            clone.clear()
            (clone.update if isinstance(obj, set) else clone.extend)(values)
        for name, value in attributes(clone):
            if (own := of(value)) is not value:
                object.__setattr__(clone, name, own)
        return clone

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """A copy with the thread's own values of the variables that hold copies."""
        of, memo = self.of, self._memo
        closure = function.__closure__ or ()
        new = [c for c in closure if id(c) in self._holders and id(c) not in memo]
        memo.update((id(cell), types.CellType()) for cell in new)
        cells = tuple(memo.get(id(cell), cell) for cell in closure)
        clone = types.FunctionType(
            function.__code__, function.__globals__, function.__name__, None, cells
        )
        memo[id(function)] = clone  # before what its variables hold, which may be itself
        for cell in new:
            memo[id(cell)].cell_contents = of(cell.cell_contents)
        if function.__defaults__ is not None:
            clone.__defaults__ = tuple(map(of, function.__defaults__))
        if function.__kwdefaults__ is not None:
            clone.__kwdefaults__ = {k: of(value) for k, value in function.__kwdefaults__.items()}
        for name in functools.WRAPPER_ASSIGNMENTS:
            setattr(clone, name, getattr(function, name))
        vars(clone).update(vars(function))
        return clone


def _shallow(obj: Any) -> Any:
    """A copy of an object that holds the same objects."""
    if isinstance(obj, types.CellType):
        return types.CellType()
    problem: object = "copy.copy gave the object itself"
    try:
        clone = copy.copy(obj)
    except Exception as error:
        problem = error
        clone = obj
    if clone is obj:
        raise TypeError(
            "args: expected objects that copy.copy can copy where they hold a model or an "
            f"optimizer, because each thread has its own, got {type(obj).__name__} ({problem}); "
            "pass the model and the optimizer themselves"
        ) from (problem if isinstance(problem, Exception) else None)
    return clone
