"""Learning rates by the run's global step: one schedule for all workers."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from asyncopt._checks import whole

__all__ = ["Restarts", "bring_to", "check_schedule"]


def check_schedule(scheduler: Any, every: Any) -> None:
    """Raise for a scheduler that cannot follow a step count.

    Raises:
        TypeError: ``scheduler`` is not one of torch's, or depends on a metric.
        ValueError: ``every`` is not an integer >= 1.
    """
    for part in _parts(scheduler):
        if isinstance(part, ReduceLROnPlateau):
            raise TypeError(
                "scheduler: expected one that depends on the step alone, got ReduceLROnPlateau, "
                "which depends on a metric that every worker sees differently; step it in this "
                "process between runs"
            )
        if not isinstance(part, LRScheduler):
            raise TypeError(
                f"scheduler: expected one of torch.optim.lr_scheduler, got {type(part).__name__}"
            )
    whole("every", every, 1)


def bring_to(scheduler: LRScheduler, step: int) -> None:
    """Step a scheduler until it has taken ``step`` steps, as a serial run would have.

    A worker that starts late, or again, takes every step: most schedulers compute each rate from
    the one before, so only this gives the rates of the serial run to the last bit.

    Raises:
        ValueError: it is past ``step`` already.
    """
    position = _position(scheduler)
    if position > step:
        raise ValueError(
            f"scheduler: expected one that has not passed the run's step {step}, got one at step "
            f"{position}; leave its steps to worker.schedule"
        )
    if position == step:
        return
    for part in _parts(scheduler):
        # torch warns if this process calls scheduler.step() before optimizer.step(). Here other
        # processes may have pushed.
        if getattr(part, "_step_count", 0) == 1:
            part._step_count = 2
    for _ in range(step - position):
        scheduler.step()


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and its nested schedulers."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)


def _position(scheduler: Any) -> int:
    """Steps taken; those of a ``ChainedScheduler`` are counted by its parts."""
    if hasattr(scheduler, "last_epoch"):
        return int(scheduler.last_epoch)
    return _position(scheduler._schedulers[0])


class Restarts:
    """Warnings about schedulers that start again in a replacement or in a resumed run.

    These are schedulers that ``fn`` steps itself. :meth:`Worker.schedule` brings a scheduler to the
    step of the run, and a resume restores those in ``args``.

    Args:
        optimizers: the worker's own.
        also_in_args: also warn of schedulers in ``args``, because workers can be replaced and a
            replacement starts with the original ``args``.
        goes_on: True if this worker is a replacement, or belongs to a resumed run.
    """

    def __init__(
        self, optimizers: Sequence[Any], *, also_in_args: bool, goes_on: bool = False
    ) -> None:
        self._goes_on = goes_on
        self._waiting = [
            optimizer
            for optimizer in optimizers
            if also_in_args or not _has_scheduler(optimizer)  # else its scheduler came with args
        ]
        self._found: list[weakref.ref[LRScheduler]] = []
        self._excused: weakref.WeakSet[LRScheduler] = weakref.WeakSet()

    def follow(self, scheduler: LRScheduler, *, after_push: bool) -> None:
        """Excuse a scheduler from warnings: ``Worker.schedule`` steps it.

        Warns if that begins in a replacement or a resumed run only after a push.
        """
        late = self._goes_on and after_push and _position(scheduler) == 0
        if late and scheduler not in self._excused:
            warnings.warn(
                f"scheduler: {type(scheduler).__name__} is first brought to the step of the run "
                "after a push, which had the rate of step 0; call worker.schedule(scheduler) "
                "before the loop as well",
                RuntimeWarning,
                stacklevel=3,
            )
        self._excused.update(_parts(scheduler))

    def look(self) -> None:
        """Warn once of each scheduler that ``fn`` has stepped since the last call."""
        for optimizer in [each for each in self._waiting if _has_scheduler(each)]:
            self._waiting.remove(optimizer)
            self._found += map(weakref.ref, _schedulers_of(optimizer))
        for found in self._found[:]:
            scheduler = found()
            if scheduler is None or scheduler in self._excused:
                self._found.remove(found)
            elif _position(scheduler) > 0:
                self._found.remove(found)
                warnings.warn(
                    f"scheduler: {type(scheduler).__name__} is stepped by fn, so it begins anew in "
                    "a worker that replaces another, and in a resumed run unless it came with "
                    "args; call worker.schedule(scheduler) instead of scheduler.step(), which "
                    "brings it to the step of the run",
                    RuntimeWarning,
                    stacklevel=4,
                )


def _has_scheduler(optimizer: Any) -> bool:
    return "initial_lr" in optimizer.param_groups[0]


def _schedulers_of(optimizer: Any) -> list[LRScheduler]:
    """The schedulers of an optimizer, found among all objects: about 0.1 s, once."""
    owners = (optimizer, getattr(optimizer, "optimizer", optimizer))
    every = [item for item in gc.get_objects() if issubclass(type(item), LRScheduler)]
    return [each for each in every if getattr(each, "optimizer", None) in owners]
