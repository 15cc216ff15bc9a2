"""The layout of a store: offsets of parameters, state slots and scalars."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import torch

__all__ = ["Layout", "Place", "TensorSpec"]

_CACHE_LINE = 64


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A parameter and its optimizer state.

    Attributes:
        shape, strides: of the parameter, strides in elements; dense in memory.
        dtype: of the parameter.
        state_dtype: of the slots.
        slots: number of state tensors of the rule.
        scalars: number of float64 values that the rule keeps for the tensor.
        row_slots: number of slots, the last ones, with one value per row; the others have the
            parameter's shape.
        journal_bytes: length of the journal of missed row updates; 0 if there is none.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    state_dtype: torch.dtype
    slots: int
    scalars: int
    row_slots: int = 0
    journal_bytes: int = 0

    @property
    def elements(self) -> int:
        """Number of elements of the parameter."""
        return torch.Size(self.shape).numel()

    @property
    def slot_shapes(self) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
        """Shape and strides of each slot. Row slots broadcast over the parameter."""
        by_row = self.shape[:1] + (1,) * (len(self.shape) - 1)
        of_rows = (by_row, (1,) * len(by_row))
        like_param = (self.shape, self.strides)
        return (like_param,) * (self.slots - self.row_slots) + (of_rows,) * self.row_slots


@dataclasses.dataclass(frozen=True)
class Place:
    """Byte offsets of one :class:`TensorSpec` in the data of a store."""

    spec: TensorSpec
    param: int
    slots: tuple[int, ...]
    scalars: int
    journal: int


class Layout:
    """Assigns offsets: all parameters, then all slots, then all scalars and journals.

    Every tensor starts at a cache line, so that no two tensors share one.

    Attributes:
        places: one per spec, in order.
        param_bytes: length of the leading part that holds the parameters.
        data_bytes: length of everything.
        hash: a 64-bit fingerprint; stores of different layouts do not fit each other.
    """

    def __init__(self, specs: Iterable[TensorSpec]) -> None:
        every = list(specs)
        end = 0

        def reserve(nbytes: int) -> int:
            nonlocal end
            start = end
            end = -(-(start + nbytes) // _CACHE_LINE) * _CACHE_LINE
            return start

        params = [reserve(s.elements * s.dtype.itemsize) for s in every]
        self.param_bytes = end
        slots = [
            tuple(
                reserve(torch.Size(shape).numel() * s.state_dtype.itemsize)
                for shape, _ in s.slot_shapes
            )
            for s in every
        ]
        scalars = [reserve(8 * s.scalars) for s in every]
        journals = [reserve(s.journal_bytes) for s in every]
        self.data_bytes = max(end, _CACHE_LINE)
        columns = (every, params, slots, scalars, journals)
        self.places = [Place(*each) for each in zip(*columns, strict=True)]
        digest = hashlib.sha256(repr(self.places).encode()).digest()
        self.hash = int.from_bytes(digest[:8], "little")
