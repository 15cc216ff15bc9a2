"""Scalars of a run, for TensorBoard and other loggers."""

from __future__ import annotations

import math
from collections.abc import Iterator

from asyncopt.run.observe import RunView
from asyncopt.run.telemetry.history import History, Intervals
from asyncopt.run.telemetry.tables import mean_known

__all__ = ["Metrics", "scalars"]

LEAST = 1e-3  # minimum length in s of an interval for which rates are computed


class Metrics:
    """The scalars of a run, interval by interval.

    Make one in `Observer.start`, and call it in `Observer.tick` and `Observer.end`.

    Args:
        run: the argument of `Observer.start`.

    Attributes:
        updates: number of pushes that the run has made up to the last call; a logger's step.
    """

    def __init__(self, run: RunView) -> None:
        self._intervals = Intervals(run)
        self.updates = 0

    def __call__(self) -> dict[str, float]:
        """The scalars since the last call, by name; empty before the start barrier.

        Names are a quantity and its scope, as in TensorBoard: ``updates_per_second/all``,
        ``loss/worker_0``, ``core_use/core_1``. Unknown values, such as the loss of a worker that
        has logged none, are left out.
        """
        change = self._intervals.next(LEAST)
        if change is None:
            return {}
        self.updates += int(change.pushes.sum())
        return {name: value for name, value in scalars(change) if not math.isnan(value)}


def scalars(change: History) -> Iterator[tuple[str, float]]:
    """Tag and value of every scalar of an interval; NaN where it is unknown."""
    rates, waits, losses = change.updates_per_second, change.lock_wait_share, change.loss
    yield "updates_per_second/all", float(rates[-1].sum())
    yield "lock_wait_share/all", float(waits[-1].mean())
    yield "retries/all", float(change.retries[-1].sum())
    yield "restarts/all", float(change.restarts[-1].sum())
    yield "loss/all", mean_known(losses[-1])
    for q in (50, 99):
        yield f"staleness_p{q}/all", change.staleness(-1).percentile(q)
    for rank in range(change.workers):
        name = f"worker_{rank}"
        yield f"updates_per_second/{name}", float(rates[-1, rank])
        yield f"lock_wait_share/{name}", float(waits[-1, rank])
        yield f"retries/{name}", float(change.retries[-1, rank])
        yield f"restarts/{name}", float(change.restarts[-1, rank])
        yield f"loss/{name}", float(losses[-1, rank])
        yield f"cpu_use/{name}", float(change.cpu_use[-1, rank])
        for q in (50, 99):
            yield f"staleness_p{q}/{name}", change.staleness(-1, rank).percentile(q)
    for core, use in zip(change.cores, change.core_use[-1], strict=True):
        yield f"core_use/core_{core}", float(use)
