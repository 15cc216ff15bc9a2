"""Learning rates by the run's global step: one schedule, seen alike by all workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

__all__ = ["bring_to", "check_schedule"]


def check_schedule(scheduler: Any, every: Any) -> None:
    """Raise for what cannot follow a step count.

    Raises:
        TypeError: ``scheduler`` is none of torch's, or waits for a metric.
        ValueError: ``every`` is no integer >= 1.
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
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every: expected an integer >= 1, got {every!r}")


def bring_to(scheduler: LRScheduler, step: int) -> None:
    """Step a scheduler until it has taken ``step`` steps, as a serial run would have.

    A worker that starts late, or anew, goes through all of them: only so are the rates those of the
    serial run to the last bit, as most schedulers compute each from the one before.

    Raises:
        ValueError: it is further on already.
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
        # torch counts this process's own calls, to warn of a first scheduler.step() before
        # optimizer.step(). Here others may have pushed.
        if getattr(part, "_step_count", 0) == 1:
            part._step_count = 2
    for _ in range(step - position):
        scheduler.step()


def _parts(scheduler: Any) -> Iterator[Any]:
    """A scheduler and those that it is made of."""
    yield scheduler
    for part in getattr(scheduler, "_schedulers", ()):
        yield from _parts(part)


def _position(scheduler: Any) -> int:
    """Steps taken; a ``ChainedScheduler`` leaves the count to its parts."""
    if hasattr(scheduler, "last_epoch"):
        return int(scheduler.last_epoch)
    return _position(scheduler._schedulers[0])
