"""Detection of buffers and parameters that a worker's modules have replaced.

Workers share a model by its tensors. A forward pass that rebinds a buffer
(``self.count = self.count + 1``) instead of writing to it does not change the shared tensor, and
neither does ``module.weight = nn.Parameter(...)``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch

__all__ = ["Registered"]


class _Place(NamedTuple):
    """An entry of a module's own dict of buffers, parameters or modules.

    Attributes:
        path: the name within the outermost module.
        kind: "buffer", "parameter" or "module".
        entries: the dict.
        name: the key.
        item: the value that was shared.
        is_saved: whether a state dict has it.
    """

    path: str
    kind: str
    entries: dict[str, Any]
    name: str
    item: Any
    is_saved: bool = True


class _Places:
    """Entries that are compared without a loop in Python, at 35 ns each."""

    def __init__(self, places: Iterable[_Place]) -> None:
        self._places = list(places)
        self._entries = [place.entries for place in self._places]
        self._names = [place.name for place in self._places]
        self._items = [place.item for place in self._places]

    def __iter__(self) -> Iterator[_Place]:
        return iter(self._places)

    def are_kept(self) -> bool:
        """True if no entry was replaced."""
        return all(map(operator.is_, map(dict.get, self._entries, self._names), self._items))


class Registered:
    """The buffers and parameters of modules, as they are when this object is made.

    Tensors that are added to a module later are private to the worker.

    Args:
        modules: the outermost ones.
    """

    def __init__(self, modules: Iterable[torch.nn.Module]) -> None:
        self._modules = list(modules)
        places = [place for module in self._modules for place in _places(module)]
        self._buffers = _Places(place for place in places if place.kind == "buffer")
        self._others = _Places(place for place in places if place.kind != "buffer")

    def keep_buffers(self) -> None:
        """Copies rebound buffers into the shared tensors, and registers these again.

        Raises:
            ValueError: a persistent buffer has another shape, dtype or device, or is gone.
        """
        if self._buffers.are_kept():
            return
        for place in self._buffers:
            found = place.entries.get(place.name)
            if found is not place.item:
                _keep(place, found)

    def check(self) -> None:
        """Checks that modules still have all shared tensors, perhaps under other names.

        Raises:
            ValueError: a parameter, or a module with parameters or buffers, was replaced.
        """
        if self._others.are_kept():
            return
        here = {id(param) for module in self._modules for param in module.parameters()}
        here.update(id(buffer) for module in self._modules for buffer in module.buffers())
        for place in (*self._others, *self._buffers):
            if place.kind != "module" and place.is_saved and id(place.item) not in here:
                raise ValueError(
                    f"{place.path}: expected the {place.kind} that launch shared, got another one "
                    "or none in its place, which neither workers nor optimizers share; write to "
                    "it with torch.no_grad() and .copy_(), or replace it before launch"
                )


def _places(outermost: torch.nn.Module) -> Iterator[_Place]:
    for prefix, module in outermost.named_modules():
        before = f"{prefix}." if prefix else ""
        held = {
            "buffer": module._buffers,
            "parameter": module._parameters,
            "module": module._modules,
        }
        for kind, entries in held.items():
            if not isinstance(entries, dict):  # of torch.jit, which makes them anew at each access
                continue
            for name, item in entries.items():
                if item is not None:
                    is_saved = kind != "buffer" or name not in module._non_persistent_buffers_set
                    yield _Place(before + name, kind, entries, name, item, is_saved)


@torch.no_grad()
def _keep(place: _Place, found: torch.Tensor | None) -> None:
    """Copies a rebound buffer to the shared one, and registers that again.

    A non-persistent buffer may change its shape; it is private to the worker from then on.
    """
    shared = place.item
    kind = None if found is None else (found.shape, found.dtype, found.device)
    if found is not None and kind == (shared.shape, shared.dtype, shared.device):
        shared.copy_(found)
        place.entries[place.name] = shared
    elif place.is_saved:
        got = (
            "none"
            if found is None
            else f"{found.dtype} on {found.device}, shape {tuple(found.shape)}"
        )
        raise ValueError(
            f"{place.path}: expected a buffer like the one that launch shared, {shared.dtype} on "
            f"{shared.device}, shape {tuple(shared.shape)}, got {got}; write into it in place, or "
            "register it with persistent=False to have one in each worker"
        )
