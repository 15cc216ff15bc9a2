"""Buffers and extra state of modules in checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from asyncopt.errors import CheckpointError
from asyncopt.run.checkpoint.codec import encode
from asyncopt.warn import warn_caller

__all__ = ["Buffer", "buffers_of", "encoded_extra_state", "with_extra_state"]


@dataclass(frozen=True)
class Buffer:
    """A buffer: its name in checkpoints, and its place in a module."""

    name: str
    module: torch.nn.Module
    attribute: str

    @property
    def tensor(self) -> torch.Tensor | None:
        """The buffer itself."""
        return self.module._buffers[self.attribute]

    @property
    def is_persistent(self) -> bool:
        """True if it belongs in checkpoints, as in state dicts."""
        return self.attribute not in self.module._non_persistent_buffers_set

    def differs_from(self, saved: torch.Tensor | None) -> bool:
        """True if the saved buffer has another shape but the same dtype."""
        here = self.tensor
        if here is None or saved is None:
            return False
        return here.dtype == saved.dtype and here.shape != saved.shape

    def replace(self, saved: torch.Tensor) -> None:
        """Replace the buffer by the saved one, with a warning."""
        here = self.tensor
        assert here is not None
        warn_caller(
            f"{self.name}: the buffer is of shape {tuple(saved.shape)} in the checkpoint, of shape "
            f"{tuple(here.shape)} here: it takes the former"
        )
        here.data = saved.to(here.device, copy=True)


def buffers_of(number: int, module: torch.nn.Module) -> Iterator[Buffer]:
    """All buffers of the ``number``-th module, also those that are None or not persistent."""
    for prefix, part in module.named_modules():
        for name in part._buffers:
            path = ".".join(filter(None, (f"modules.{number}", prefix, name)))
            yield Buffer(path, part, name)


def with_extra_state(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """Submodules that have extra state, with their names."""
    for name, part in module.named_modules():
        if type(part).get_extra_state is not torch.nn.Module.get_extra_state:
            yield name, part


def encoded_extra_state(part: torch.nn.Module, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """``get_extra_state`` as plain JSON; adds its tensors to ``tensors``.

    Raises:
        CheckpointError: it is not plain data, or the module has no ``set_extra_state``.
    """
    kind = type(part).__name__
    if type(part).set_extra_state is torch.nn.Module.set_extra_state:
        raise CheckpointError(
            f"args: expected set_extra_state in {kind}, which has get_extra_state, got none; "
            "define both"
        )
    try:
        return encode(part.get_extra_state(), name, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"args: get_extra_state of {kind}: {error}") from None
