"""Search through containers, attributes, closures and methods for what a run trains."""

from __future__ import annotations

import contextlib
import copyreg
import functools
import types
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from asyncopt.optim.base import Optimizer
from asyncopt.optim.wrapper import Wrapper

__all__ = ["BARE", "Trained", "attributes", "is_trained", "parts", "reached"]

#: Types of objects that are not searched: they hold no others, or only shared ones.
_ATOMS = frozenset(
    {int, float, complex, bool, str, bytes, bytearray, type(None), type, types.ModuleType}
    | {types.BuiltinFunctionType, range, slice, torch.dtype, torch.device, torch.Tensor}
)
#: Types of objects without attributes. Data may hold millions of them, so the check is skipped.
BARE = frozenset({list, tuple, dict, set, frozenset, deque, types.CellType, types.MethodType})

#: Types of objects that are copied as a whole, so their parts are not searched.
_WHOLE = (Optimizer, Wrapper, torch.Tensor, type, types.ModuleType)

_TRAINED = (torch.optim.Optimizer, nn.Module, LRScheduler, Dataset, DataLoader)


@dataclass(frozen=True)
class Trained:
    """Objects that training changes: a run shares them, saves them and moves them to devices.

    Attributes:
        optimizers: optimizers of this package that can be in a store, without parts of others.
        others: all other optimizers, without parts of those above.
        modules: outermost modules, without modules of datasets, such as transforms, unless an
            optimizer trains them.
        schedulers: learning-rate schedulers.
    """

    optimizers: list[Any]
    others: list[torch.optim.Optimizer]
    modules: list[nn.Module]
    schedulers: list[LRScheduler]

    @classmethod
    def among(cls, found: list[Any]) -> Trained:
        """Sort objects by kind; each must be listed once."""
        inner = {
            id(part)
            for each in found
            if isinstance(each, Wrapper)
            for part in (each.optimizer, getattr(each, "center", None))
        }
        every = [o for o in found if isinstance(o, torch.optim.Optimizer) and id(o) not in inner]
        return cls(
            [each for each in every if hasattr(type(each), "store")],
            [each for each in every if not hasattr(type(each), "store")],
            _outermost(_without_data(found, every)),
            [each for each in found if isinstance(each, LRScheduler)],
        )

    @classmethod
    def of(cls, objects: object) -> Trained:
        """Find what is trained in one object, or in a list or tuple of objects."""
        if isinstance(objects, Trained):
            return objects
        return cls.among([each for each in reached(objects) if is_trained(each)])


def is_trained(item: object) -> bool:
    """True if an object is of a kind that :meth:`Trained.among` sorts."""
    return type(item) not in BARE and isinstance(item, _TRAINED)


def _without_data(found: list[Any], optimizers: list[torch.optim.Optimizer]) -> Iterator[nn.Module]:
    """The modules that an optimizer trains, and those that are no part of a dataset."""
    params = {id(p) for each in optimizers for g in each.param_groups for p in g["params"]}
    data: set[int] | None = None
    for module in found:
        if not isinstance(module, nn.Module):
            continue
        if not any(id(param) in params for param in module.parameters()):
            if data is None:
                datasets = [each for each in found if isinstance(each, Dataset | DataLoader)]
                data = {id(part) for part in reached(datasets)} if datasets else set()
            if id(module) in data:
                continue
        yield module


def _outermost(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Modules that no earlier one contains."""
    outermost: list[nn.Module] = []
    contained: set[int] = set()
    for module in modules:
        if id(module) not in contained:
            outermost.append(module)
            contained.update(map(id, module.modules()))
    return outermost


def reached(root: object) -> Iterator[Any]:
    """Each object once that is ``root`` or is held by it, an object before what it holds."""
    seen: set[int] = set()
    stack = [iter([root])]
    while stack:
        for item in stack[-1]:
            if id(item) in seen:
                continue
            seen.add(id(item))
            yield item
            stack.append(iter(parts(item)))
            break
        else:
            stack.pop()


def parts(item: object) -> list[Any]:
    """The objects that an object holds; no code of its class is called.

    Optimizers of this package, tensors, classes and Python modules count as holding none, and
    functions as not holding their globals.
    """
    found: list[Any] = []
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        found += item
    elif isinstance(item, dict):
        found += dict.values(item)
    elif isinstance(item, _WHOLE):
        return []
    elif isinstance(item, types.MethodType):
        found += [item.__func__, item.__self__]
    elif isinstance(item, types.FunctionType):
        found += [*(item.__closure__ or ()), *(item.__defaults__ or ())]
        found += (item.__kwdefaults__ or {}).values()
    elif isinstance(item, types.CellType):
        with contextlib.suppress(ValueError):  # it is empty
            found.append(item.cell_contents)
    elif isinstance(item, functools.partial):
        found += [item.func, *item.args, *item.keywords.values()]
    if type(item) not in BARE:
        found += [value for _, value in attributes(item)]
    return [each for each in found if type(each) not in _ATOMS]


def attributes(item: object) -> list[tuple[str, Any]]:
    """The names and values of an object's own attributes, in a dict or in slots."""
    found: list[tuple[str, Any]] = []
    if type(item).__dictoffset__:
        found += object.__getattribute__(item, "__dict__").items()
    slots: list[str] = copyreg._slotnames(type(item))  # type: ignore[attr-defined]
    for name in slots:
        with contextlib.suppress(AttributeError):  # it was not set
            found.append((name, object.__getattribute__(item, name)))
    return found
