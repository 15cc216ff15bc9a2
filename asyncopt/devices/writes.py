"""Writes of user code to the parameters of a replica on a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from asyncopt import _core
from asyncopt.devices.slots import Slot

__all__ = ["Write", "Writes", "addresses"]


class Write(NamedTuple):
    """Values of one parameter on the host: as written, and as last pulled."""

    now: torch.Tensor
    pulled: torch.Tensor

    def over(self, other: torch.Tensor) -> torch.Tensor:
        """`other` with the elements that were written."""
        return torch.where(self.now.ne(self.pulled), self.now, other)


class Writes:
    """Finds the parameters that were written since they were pulled, by their version counters.

    Args:
        params: on the device, by number.
    """

    def __init__(self, params: Sequence[torch.Tensor]) -> None:
        self._params = params
        self._versions = _core.Versions(list(params))
        self._kept: set[int] = set()  # numbers of those that were written before the last note

    def note(self, kept: Iterable[int] = ()) -> None:
        """Count all parameters as pulled now, except the numbers in `kept`."""
        self._versions.note()
        self._kept = set(kept)

    def check(self, params: Iterable[int]) -> None:
        """Raise ValueError if parameters were written while their new values are in transfer."""
        number = self._versions.first_written(list(params))
        if number is not None:
            raise ValueError(
                f"params[{number}]: expected no write between step() and the next forward pass, "
                "where the newest values of a worker with a device are still on their way, got "
                "one; call the optimizer's flush() before the write"
            )

    def take(self, slot: Slot) -> dict[int, Write]:
        """The parameters that were written, by number; waits for compute that writes them.

        Args:
            slot: the slot with their values when they were pulled.
        """
        return {
            number: Write(self._params[number].detach().to("cpu", copy=True), slot.params[number])
            for number in sorted(self._kept.union(self._versions.written()))
        }


def addresses(writes: dict[int, Write], params: Iterable[int]) -> list[tuple[int, int, int]]:
    """The writes to some parameters, in the form that the engine takes."""
    return [
        (number, writes[number].now.data_ptr(), writes[number].pulled.data_ptr())
        for number in params
        if number in writes
    ]
