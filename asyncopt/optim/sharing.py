"""An optimizer's place in a store, and how it gets to other processes and threads."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from asyncopt.errors import SegmentError
from asyncopt.optim.state import StateTensors, spec_of
from asyncopt.store import Layout, Place, Store

if TYPE_CHECKING:
    from asyncopt.optim.kernels import Kernel

__all__ = ["Sharing", "alias", "layout_of"]


def layout_of(
    params: Sequence[torch.Tensor], kernels: Sequence[Kernel], with_books: bool = False
) -> Layout:
    """The layout of a store for these parameters, each updated by its kernel."""
    return Layout(spec_of(*each, with_books) for each in zip(params, kernels, strict=True))


class Sharing:
    """A worker's access to a store: a claimed slot, and views of the data.

    Args:
        store: the store.
        layout: the layout that it was made with.

    Attributes:
        worker: the number of the slot; 0 is that of the process that made the store.
        is_in_run: whether a launch of this process is training it.

    Raises:
        SegmentError: all worker slots are taken, or the store was made with another layout.
    """

    def __init__(self, store: Store, layout: Layout) -> None:
        if store.segment.layout_hash != layout.hash:
            raise SegmentError("store: its layout is not that of the optimizer's parameters")
        self.store = store
        self.layout = layout
        self.worker = store.segment.claim_worker()
        self.is_in_run = False  # of launch, which would lose its store
        self.release = weakref.finalize(self, store.segment.release_worker, self.worker)

    def param(self, place: Place) -> torch.Tensor:
        """A parameter's data in the store."""
        spec = place.spec
        return self.store.view(place.param, spec.dtype, spec.shape, spec.strides)

    def state(self, place: Place) -> StateTensors:
        """A parameter's state in the store."""
        spec = place.spec
        return StateTensors(
            tuple(
                self.store.view(offset, spec.state_dtype, *shape)
                for offset, shape in zip(place.slots, spec.slot_shapes, strict=True)
            ),
            self.store.view(place.scalars, torch.float64, (spec.scalars,), (1,)),
            self.store.view(place.journal, torch.uint8, (spec.journal_bytes,), (1,))
            if spec.journal_bytes
            else None,
        )

    def check_idle(self, name: str) -> None:
        """Raises RuntimeError if a launch of this process is training the optimizer.

        Args:
            name: what was called, for the message.
        """
        if self.is_in_run:
            raise RuntimeError(
                f"{name}: expected an optimizer that no launch is training, got one in a running "
                "launch (of another thread?); wait for its end, or use copies of the model and the "
                "optimizer"
            )

    def check_last(self, name: str) -> None:
        """Raises RuntimeError unless this is the worker that made the store, and the only one.

        Args:
            name: what was called, for the message.
        """
        self.check_idle(name)
        if self.worker != 0:
            raise RuntimeError(
                f"{name}: expected the process (or thread) that shared the optimizer, got worker "
                f"slot {self.worker} of its store; return from the worker first"
            )
        if others := self._others():
            gc.collect()  # copies of the optimizer for threads that have ended
            others = self._others()
        if others:
            raise RuntimeError(
                f"{name}: expected no other workers of the store, got {len(others)} (slots "
                f"{', '.join(map(str, others))}), which would train on without this process; join "
                "them, or delete their optimizers, first"
            )

    def _others(self) -> list[int]:
        return [slot for slot in self.store.segment.owned_slots() if slot != self.worker]

    def __reduce__(self) -> tuple[Any, ...]:
        return Sharing, (self.store, self.layout)  # unpickled, it claims a slot of its own


def alias(param: torch.Tensor) -> torch.Tensor:
    """A tensor of its own, with a ``.grad`` of its own, over a parameter's memory."""
    # .data, unlike .detach(), starts a version counter of its own: a step in another thread must
    # not look like an in-place change to this thread's backward.
    alias = param.data
    if isinstance(param, torch.nn.Parameter):
        return torch.nn.Parameter(alias, requires_grad=param.requires_grad)
    return alias.requires_grad_(param.requires_grad)
