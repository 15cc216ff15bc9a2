"""Forward pre-hooks: each module waits only for its own parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

__all__ = ["Forward"]


class Forward:
    """Hooks before the forward passes of modules, which wait for the parameters that they read.

    A module waits for its own parameters. Some modules are never called, because their parents read
    their parameters directly (as ``nn.MultiheadAttention`` does for its ``out_proj``): the nearest
    ancestor that is called waits for these. The forward passes until :meth:`settle` show which
    modules are called. Without gradients, as in evaluation, other modules may be called, so the
    first one waits for all parameters. So does ``state_dict()``.

    Args:
        modules: the outermost modules; no forward pass waits for parameters of others.
        params: the parameters, by number.
        wait: called with the numbers of the parameters to wait for; with None for all.

    Attributes:
        nobodys: numbers of the parameters that no forward pass waits for, once it is settled.
    """

    def __init__(
        self,
        modules: Iterable[torch.nn.Module],
        params: Sequence[torch.Tensor],
        wait: Callable[[Iterable[int] | None], None],
    ) -> None:
        self._modules = list(modules)
        self._numbers = {id(param): number for number, param in enumerate(params)}
        self._wait = wait
        self._called: set[int] = set()  # ids of modules
        self._needs: dict[int, tuple[int, ...]] | None = None
        self.nobodys: tuple[int, ...] = ()
        self._handles: list[RemovableHandle] = []
        seen: set[int] = set()
        for outermost in self._modules:
            for module in outermost.modules():
                if id(module) not in seen and self._below(module):
                    seen.add(id(module))
                    # Before other hooks, which may read parameters, as those of weight norm do.
                    self._handles += [
                        module.register_forward_pre_hook(self._before, prepend=True),
                        module.register_state_dict_pre_hook(self._before_state_dict),
                    ]

    def settle(self) -> None:
        """Freeze the set of modules called so far as those of every forward pass."""
        if self._needs is not None:
            return
        self._needs = {}
        taken: set[int] = set()
        for outermost in self._modules:
            self._assign(outermost, None, taken)
        self.nobodys = tuple(number for number in self._numbers.values() if number not in taken)

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __deepcopy__(self, memo: dict[int, Any]) -> Forward:
        """Copies of the modules keep the hooks, which wait for nothing there."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Forward, ((), (), _nothing)  # pickled modules have no device

    def _assign(self, module: torch.nn.Module, ancestor: int | None, taken: set[int]) -> None:
        assert self._needs is not None
        reader = id(module) if id(module) in self._called else ancestor
        if reader is not None:
            own = self._own(module)
            taken.update(own)
            self._needs[reader] = tuple(dict.fromkeys((*self._needs.get(reader, ()), *own)))
        for child in module.children():
            self._assign(child, reader, taken)

    def _before(self, module: torch.nn.Module, args: Any) -> None:
        if not torch.is_grad_enabled():
            self._wait(None)
        elif self._needs is None:
            self._called.add(id(module))
            self._wait(None)
        else:
            needed = self._needs.get(id(module))
            if needed is None:  # a module that was not called before may read all parameters below
                needed = self._needs[id(module)] = tuple(self._below(module))
            self._wait(needed)

    def _before_state_dict(self, module: torch.nn.Module, prefix: str, keep_vars: bool) -> None:
        self._wait(None)

    def _own(self, module: torch.nn.Module) -> list[int]:
        own = (self._numbers.get(id(param)) for param in module.parameters(recurse=False))
        return [number for number in own if number is not None]

    def _below(self, module: torch.nn.Module) -> list[int]:
        every = (self._numbers.get(id(param)) for param in module.parameters())
        return [number for number in every if number is not None]


def _nothing(numbers: Iterable[int] | None) -> None:
    """Do not wait."""
