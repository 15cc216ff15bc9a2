"""Lost workers of a run, with the repairs that followed."""

from __future__ import annotations

import dataclasses

from asyncopt.run.optimizers import SharedOptimizer
from asyncopt.run.outcome import Failure, Loss

__all__ = ["Losses"]


class Losses:
    """A record of losses.

    The ledgers count the locks that were taken over from dead owners, but not by owner. Most
    takeovers happen before or soon after the death is noted, so each is attributed to the newest
    loss.

    Args:
        optimizers: optimizers whose ledgers count repairs.
    """

    def __init__(self, optimizers: list[SharedOptimizer]) -> None:
        self._optimizers = optimizers
        self._noted: list[Loss] = []
        self._repairs = 0
        self.look()

    def note(self, failure: Failure, *, replaced: bool, batch: int | None) -> Loss:
        """Record a loss that the run survives, and return it."""
        loss = Loss(
            rank=failure.rank,
            when=failure.when,
            cause=failure.message,
            traceback=failure.traceback,
            replaced=replaced,
            batch=batch,
            repairs=0,
        )
        self._noted.append(loss)
        self.look()
        return self._noted[-1]

    def look(self) -> None:
        """Attribute the repairs since the last call to the newest loss."""
        repairs = sum(optimizer.ledger().repairs for optimizer in self._optimizers)
        if self._noted:
            newest = self._noted[-1]
            found = newest.repairs + repairs - self._repairs
            self._noted[-1] = dataclasses.replace(newest, repairs=found)
        self._repairs = repairs

    def all(self, start: float) -> tuple[Loss, ...]:
        """All losses.

        Args:
            start: when the workers passed the start barrier, on the monotonic clock in seconds.
        """
        self.look()
        return tuple(dataclasses.replace(loss, when=loss.when - start) for loss in self._noted)
