"""Optimizer state in memory that the engine may write."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from asyncopt import _core
from asyncopt.optim.checks import has_layout
from asyncopt.optim.kernels import Kernel
from asyncopt.optim.local import check_placement, has_storage, is_distributed, local_of
from asyncopt.store import TensorSpec

__all__ = [
    "JOURNAL",
    "StateTensors",
    "adopt",
    "check_number",
    "check_place",
    "check_state",
    "new_state_tensors",
    "reusable",
    "spec_of",
]

#: Name of the state entry that holds the journal of a table's missed row updates.
JOURNAL = "journal"

#: Bytes from which finding the addresses of rows of 4-KiB pages costs more than the rows: a sparse
#: step is a fifth faster with large pages, a dense one as fast.
_LARGE = 8 << 20


def spec_of(param: torch.Tensor, kernel: Kernel, with_journal: bool) -> TensorSpec:
    """A parameter and the state that its kernel keeps for it, with a journal if it has rows."""
    has_rows = param.ndim > 0 and param.numel() > 0 and param.is_contiguous()
    return TensorSpec(
        tuple(param.shape),
        tuple(param.stride()),
        param.dtype,
        kernel.state_dtype,
        len(kernel.slots),
        len(kernel.scalars),
        kernel.row_slots,
        _core.journal_bytes(kernel.index, len(param)) if with_journal and has_rows else 0,
    )


@dataclasses.dataclass(frozen=True)
class StateTensors:
    """The state of one parameter.

    Attributes:
        slots: tensors of the parameter's shape and memory order; those of a row-wise rule that
            hold one value per row have the size 1 in all other dimensions.
        scalars: float64, the per-tensor numbers side by side.
        journal: uint8, the pushes that rows of the parameter missed, as the engine keeps them; or
            None.
    """

    slots: tuple[torch.Tensor, ...]
    scalars: torch.Tensor
    journal: torch.Tensor | None

    def entries(self, kernel: Kernel) -> dict[str, torch.Tensor]:
        """As `optimizer.state` holds them."""
        names = (*kernel.slots, *kernel.scalars)
        every = dict(zip(names, (*self.slots, *self.scalars), strict=True))
        return every if self.journal is None else {**every, JOURNAL: self.journal}


def new_state_tensors(param: torch.Tensor, kernel: Kernel, with_journal: bool) -> StateTensors:
    """Private, uninitialized state."""
    spec = spec_of(param, kernel, with_journal)
    slots = tuple(
        torch.empty_strided(*shape, dtype=kernel.state_dtype, device=param.device)
        for shape in spec.slot_shapes
    )
    for slot in slots:
        if slot.nbytes >= _LARGE and slot.device.type == "cpu":
            _core.prefer_huge_pages(slot.data_ptr(), slot.nbytes)
    return StateTensors(slots, _new_scalars(param, kernel), _new_journal(spec))


def _new_scalars(param: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    return torch.zeros(len(kernel.scalars), dtype=torch.float64, device=param.device)


def _reusable_scalars(
    found: dict[str, Any], param: torch.Tensor, kernel: Kernel
) -> torch.Tensor | None:
    """The numbers in `found` themselves, if they lie side by side: others may count there, too."""
    numbers = [found.get(name) for name in kernel.scalars]
    for k, number in enumerate(numbers):
        if not (
            isinstance(number, torch.Tensor)
            and number.dtype == torch.float64
            and number.device == param.device
            and number.shape == ()
            and number.data_ptr() == numbers[0].data_ptr() + k * number.element_size()  # type: ignore[union-attr]
        ):
            return None
    return numbers[0].as_strided((len(numbers),), (1,)) if numbers else None  # type: ignore[union-attr]


def _new_journal(spec: TensorSpec) -> torch.Tensor | None:
    if not spec.journal_bytes:
        return None
    return torch.empty(spec.journal_bytes, dtype=torch.uint8, device="cpu")


def check_state(name: str, found: Any, param: torch.Tensor, kernel: Kernel) -> None:
    """Raises ValueError if steps cannot continue from the state of a parameter.

    Args:
        name: how messages call the parameter.
        found: what `optimizer.state` holds for it.
        param: the parameter.
        kernel: says which names are slots and which are numbers.
    """
    if not isinstance(found, dict):
        raise ValueError(f"state of {name}: expected a dict, got {type(found).__name__}")
    shapes = spec_of(local_of(param), kernel, False).slot_shapes
    for slot, (shape, _) in zip(kernel.slots, shapes, strict=True):
        value = found.get(slot)
        if value is None:
            continue
        what = f"state[{slot!r}] of {name}"
        if is_distributed(param) or is_distributed(value):
            check_placement(what, value, param)
        old = local_of(value)
        if isinstance(old, torch.Tensor) and tuple(old.shape) != tuple(shape):
            raise ValueError(
                f"{what}: expected shape {tuple(shape)}, got {tuple(old.shape)}; load the state of "
                "an optimizer of the same model, with the same options"
            )
        if not _is_readable(old):
            raise ValueError(f"{what}: expected a dense tensor of real numbers, got {_kind(old)}")
    for scalar in kernel.scalars:
        value = local_of(found.get(scalar))
        if value is not None and not _is_number(value):
            raise ValueError(
                f"state[{scalar!r}] of {name}: expected one number, got {_kind(value)}"
            )


def check_number(what: str, value: Any) -> None:
    """Raises ValueError unless a per-tensor number is finite and not negative, or not there."""
    if value is not None and not 0 <= float(value) < math.inf:
        raise ValueError(f"{what}: expected a finite number >= 0, got {float(value)}")


def _is_readable(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
        and not value.is_quantized
        and has_storage(value)
    )


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.numel() == 1 and _is_readable(value)
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, str)


def _kind(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"{value!r:.50}"
    return f"{value.dtype} on {value.device}, shape {tuple(value.shape)}, {value.layout}"


def check_place(name: str, kernel: Kernel, place: TensorSpec) -> None:
    """Raises ValueError if a kernel keeps other state than a store has room for.

    Args:
        name: how messages call the parameter.
        kernel: that of its group's hyperparameters as they are now.
        place: the parameter and its state when the store was made.
    """
    needs = (len(kernel.slots), len(kernel.scalars), kernel.row_slots, kernel.state_dtype)
    if needs != (place.slots, place.scalars, place.row_slots, place.state_dtype):
        raise ValueError(
            f"{name}: expected a rule with the state that was shared, {place.slots} tensors, got "
            f"{kernel.rule}, which keeps {len(kernel.slots)}: {', '.join(kernel.slots) or 'none'}; "
            "set options that change the state before share_memory or launch"
        )


def adopt(
    found: dict[str, Any],
    own: StateTensors,
    kernel: Kernel,
    initial_slot: Callable[[str], float],
    initial_scalar: Callable[[str], float],
    entry_of: Callable[[torch.Tensor], torch.Tensor],
) -> dict[str, Any]:
    """Moves a state dict's values into `own`.

    Args:
        found: what `optimizer.state` holds for it: loaded, set by the user, or nothing. It has
            passed :func:`check_state`.
        own: where the values belong; written.
        kernel: says which names are slots and which are scalars.
        initial_slot: gives what a slot that `found` lacks is filled with.
        initial_scalar: gives the start value of a scalar that `found` lacks.
        entry_of: makes the entry of `optimizer.state` from a slot; see
            :func:`asyncopt.optim.local.like`.

    Returns:
        The dict that `optimizer.state` shall hold: `own`'s tensors by name, and whatever else
        `found` had.
    """
    entries = dict(found)
    for name, slot in zip(kernel.slots, own.slots, strict=True):
        old = local_of(found.get(name))
        if old is None:
            slot.fill_(initial_slot(name))
        elif old is not slot:
            slot.copy_(old)
        entries[name] = entry_of(slot)
    for k, name in enumerate(kernel.scalars):
        old = local_of(found.get(name))
        scalar = own.scalars[k]
        if old is None:
            scalar.fill_(initial_scalar(name))
        elif not isinstance(old, torch.Tensor):
            scalar.fill_(float(old))
        elif old.data_ptr() != scalar.data_ptr():
            scalar.copy_(old.reshape(()))
        entries[name] = scalar
    entries.pop(JOURNAL, None)
    if own.journal is not None:
        old = found.get(JOURNAL)
        if old is None or old.nbytes != own.journal.nbytes:
            is_new = not any(name in found for name in (*kernel.slots, *kernel.scalars))
            _core.open_journal(own.journal.data_ptr(), own.journal.nbytes, is_new)
        elif old.data_ptr() != own.journal.data_ptr():
            own.journal.copy_(old)
        entries[JOURNAL] = own.journal
    return entries


def reusable(
    found: dict[str, Any], param: torch.Tensor, kernel: Kernel, with_journal: bool
) -> StateTensors | None:
    """The slots and the journal in `found` themselves, if the engine can write them as they are."""
    slots = [local_of(found.get(name)) for name in kernel.slots]
    spec = spec_of(param, kernel, with_journal)
    for slot, shape in zip(slots, spec.slot_shapes, strict=True):
        if not (
            isinstance(slot, torch.Tensor)
            and slot.dtype == kernel.state_dtype
            and slot.device == param.device
            and has_layout(slot, *shape)
            and not slot.is_neg()
        ):
            return None
    journal = found.get(JOURNAL)
    if journal is None or journal.nbytes != spec.journal_bytes:
        journal = _new_journal(spec)
    scalars = _reusable_scalars(found, param, kernel)
    if scalars is None:
        scalars = _new_scalars(param, kernel)
    return StateTensors(tuple(slots), scalars, journal)
